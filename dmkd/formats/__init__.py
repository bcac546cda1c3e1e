"""Files of other tools: finding and decoding images, writing image folders, WebDataset and Parquet."""
