#!/usr/bin/env bash
# FFCV for benchmarks/loader.py, in an environment of its own: build/ffcv-venv.
#
#     sudo apt-get install -y --no-install-recommends libopencv-dev libturbojpeg0-dev pkg-config g++
#     benchmarks/install_ffcv.sh
#
# FFCV 1.0.2 has no wheels: it is compiled here against OpenCV and libturbojpeg. It is used with the torch of the repository's
# own environment (a .pth file points there), so that both loaders run on the same torch and no second one is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

for package in opencv4 libturbojpeg; do
    pkg-config --exists "$package" || {
        echo "FFCV is compiled against $package, which pkg-config doesn't find; see the head of $0." >&2
        exit 2
    }
done

shared=$(.venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
.venv/bin/python -m venv build/ffcv-venv
own=$(build/ffcv-venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
echo "$shared" >"$own/dmkd-environment.pth"

build/ffcv-venv/bin/pip install -q "setuptools<81" wheel
# terminaltables and fastargs are for FFCV's scripts; numba brings its own numpy where the shared one is too new for it.
build/ffcv-venv/bin/pip install -q numba opencv-python-headless pytorch_pfn_extras assertpy tqdm psutil
build/ffcv-venv/bin/pip install -q --no-build-isolation --no-deps ffcv==1.0.2
build/ffcv-venv/bin/python -c "import ffcv, torch; print('ffcv', ffcv.__version__, 'on torch', torch.__version__)"
