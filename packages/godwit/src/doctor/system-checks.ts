import type { Check } from './check.js';
import type { HostFacts } from './host-facts.js';
import { PURPOSES, type Purpose } from './purposes.js';

const EVERYTHING = Object.keys(PURPOSES) as Purpose[];

/** Open files below which a VMM with many page channels and devices may run out of them. */
const FEW_FILES = 1024;

/** Node, the system, memory and limits. */
export function systemChecks(facts: HostFacts): Check[] {
  const { linux } = facts;
  const checks = [nodeCheck(facts), systemCheck(facts)];
  if ('reason' in linux) return checks;
  const { totalBytes, availableBytes } = linux.memory;
  checks.push({
    name: 'memory',
    verdict: 'ok',
    found: `${gib(availableBytes)} of ${gib(totalBytes)} can be had; one guest may be as large as all of it`,
    for: [],
  });
  const few = linux.filesLimit < FEW_FILES;
  checks.push({
    name: 'open files',
    verdict: few ? 'note' : 'ok',
    found: `at most ${linux.filesLimit}`,
    ...(few && { remedy: `raise it: ulimit -n ${FEW_FILES}, or LimitNOFILE= of the service` }),
    for: [],
  });
  checks.push(priorityCheck(facts));
  const mappings = Number(facts.read('/proc/sys/vm/max_map_count') ?? Number.NaN);
  if (mappings < 65_530) {
    checks.push({
      name: 'mappings',
      verdict: 'note',
      found: `vm.max_map_count is ${mappings}; a guest with huge holes may have more`,
      remedy: 'sysctl vm.max_map_count=65530',
      for: [],
    });
  }
  return checks;
}

/** linux/capability.h */
const CAP_SYS_NICE = 23n;

/** Whether the threads on which a vCPU waits for a page may come before all others. */
function priorityCheck({ read }: HostFacts): Check {
  const limit = /^Max realtime priority\s+(\S+)/m.exec(read('/proc/self/limits') ?? '')?.[1] ?? '0';
  const capabilities = BigInt(`0x${/^CapEff:\s*([\da-f]+)/m.exec(read('/proc/self/status') ?? '')?.[1] ?? '0'}`);
  const found = 'threads that serve page faults';
  return limit !== '0' || (capabilities >> CAP_SYS_NICE) & 1n
    ? { name: 'priority', verdict: 'ok', found: `${found} may come before all others`, for: [] }
    : {
        name: 'priority',
        verdict: 'note',
        found: `${found} wait for their turn like others, which takes milliseconds on a busy host`,
        remedy: 'allow a real-time priority: ulimit -r 1, LimitRTPRIO=1 of the service, or CAP_SYS_NICE',
        for: [],
      };
}

function nodeCheck({ node }: HostFacts): Check {
  const [major = 0, minor = 0] = node.split('.').map(Number);
  if (major < 20) {
    return {
      name: 'node',
      verdict: 'missing',
      found: node,
      remedy: 'install Node.js 20 or newer',
      for: EVERYTHING,
    };
  }
  const zstd = major > 23 || (major === 23 && minor >= 8) || (major === 22 && minor >= 15);
  return zstd
    ? { name: 'node', verdict: 'ok', found: `${node}, with zstd`, for: EVERYTHING }
    : {
        name: 'node',
        verdict: 'note',
        found: `${node}, without zstd`,
        remedy: 'for the encoding zstd() use Node.js 22.15 or newer; lz4() works',
        for: [],
      };
}

function systemCheck({ platform, arch, kernel, processors, linux }: HostFacts): Check {
  const found = `${platform} ${kernel}, ${arch}, ${processors} ${processors === 1 ? 'processor' : 'processors'}`;
  if (!('reason' in linux)) return { name: 'system', verdict: 'ok', found, for: EVERYTHING };
  return {
    name: 'system',
    verdict: 'missing',
    found: `${found}: ${linux.reason}`,
    remedy: 'use 64-bit Linux, and install @godwit/linux (npm leaves it out with --omit=optional)',
    for: EVERYTHING,
  };
}

export function gib(bytes: number): string {
  return bytes === Number.POSITIVE_INFINITY ? 'unlimited' : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
