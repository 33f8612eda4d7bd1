import { readFileSync } from 'node:fs';
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { setRealTime, setTimeSlice } from '@godwit/linux/unstable/libc';

/** How the kernel schedules the calling thread: fields 19, 40 and 41 of proc_pid_stat(5). */
function scheduled(): { nice: number; priority: number; policy: number } {
  const fields = readFileSync('/proc/thread-self/stat', 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return { nice: Number(fields[16]), priority: Number(fields[37]), policy: Number(fields[38]) };
}

/** Asks for a priority, and says the call's result and how this thread, and one that it starts afterwards, are scheduled. */
const asked = workerData as 'real time' | 'short slice' | 'nothing';
if (asked === 'nothing') parentPort?.postMessage(scheduled());
else {
  const result = asked === 'real time' ? setRealTime() : setTimeSlice(3, 100_000);
  const own = scheduled();
  new Worker(new URL(import.meta.url), { workerData: 'nothing' }).once('message', (child: unknown) => {
    parentPort?.postMessage({ result, own, child });
  });
}
