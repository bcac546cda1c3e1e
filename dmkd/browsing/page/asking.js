// Questions to the server from components.

import { useEffect, useRef, useState } from "./vendor/preact.js";

// The answer to a question, asked again when `key` changes: {found, of, error}. The last answer stays, with what it was asked `of`,
// until there is another one; answers that come too late are dropped. No question is asked while `asked` is null.
export function useAnswer(server, question, asked, key) {
  const [answer, setAnswer] = useState({ found: null, of: null, error: null });
  const newest = useRef(0);
  useEffect(() => {
    if (asked === null) return;
    const mine = ++newest.current;
    server.ask(question, asked).then(
      (found) => mine === newest.current && setAnswer({ found, of: asked, error: null }),
      (error) => mine === newest.current && setAnswer((before) => ({ ...before, error: error.message })),
    );
  }, [question, asked === null, JSON.stringify(asked), key]);
  return answer;
}

// The address of a picture once it is known, else null. Where it can't be had, `failed` is called.
export function usePicture(server, question, asked, failed = () => {}) {
  const [url, setUrl] = useState(null);
  const key = JSON.stringify(asked);
  useEffect(() => {
    let wanted = true;
    setUrl(null);
    if (asked !== null) server.picture(question, asked).then((found) => wanted && setUrl(found), () => wanted && failed());
    return () => {
      wanted = false;
    };
  }, [question, key]);
  return url;
}

// Call `tick` now and every so many seconds, while the page is looked at.
export function useTicks(seconds, tick) {
  const newest = useRef(tick);
  newest.current = tick;
  useEffect(() => {
    const beat = () => document.visibilityState === "visible" && newest.current();
    beat();
    const timer = setInterval(beat, 1000 * seconds);
    document.addEventListener("visibilitychange", beat);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", beat);
    };
  }, [seconds]);
}

export function useSize(ref) {
  const [size, setSize] = useState([0, 0]);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      setSize((before) => (before[0] === width && before[1] === height ? before : [width, height]));
    });
    watcher.observe(ref.current);
    return () => watcher.disconnect();
  }, []);
  return size;
}
