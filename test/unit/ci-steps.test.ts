import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/** An hour: the most that all steps may take on two idle cores. */
const MOST_SECONDS = 60 * 60;

interface Step {
  readonly name: string;
  /** The letter of the steps that run beside each other; empty for one that runs alone. */
  readonly beside: string;
  readonly seconds: number;
}

/** The steps of .ci/run, in order. Steps that run beside each other end with `together`. */
function stepsOfCi(): Step[] {
  const script = readFileSync(join(ROOT, '.ci', 'run'), 'utf8').replace(/\\\n\s*/g, ' ');
  const steps: Step[] = [];
  let letter = 'a';
  for (const line of script.split('\n')) {
    const match = /^\s*(step|beside) '([^']+)' --takes (\d+) /.exec(line);
    if (match !== null) {
      const [, how, name = '', seconds] = match;
      steps.push({ name, beside: how === 'beside' ? letter : '', seconds: Number(seconds) });
    } else if (line.trim() === 'together') {
      letter = String.fromCharCode(letter.charCodeAt(0) + 1);
    } else if (/^\s*(step|beside) /.test(line)) {
      throw new Error(`.ci/run: this step does not say what it may take: ${line}`);
    }
  }
  return steps;
}

/** The table of CONTRIBUTING.md. */
function table(): { readonly steps: Step[]; readonly sum: number } {
  const text = readFileSync(join(ROOT, 'CONTRIBUTING.md'), 'utf8');
  const rows = [...text.matchAll(/^\| (.+?) \| ?([a-z]?) ?\| (\d+) \|$/gm)];
  const [, sum] = /^\| \*\*in all\*\* \| \| \*\*(\d+)\*\* \|$/m.exec(text) ?? [];
  return {
    steps: rows.map(([, name = '', beside = '', seconds]) => ({ name, beside, seconds: Number(seconds) })),
    sum: Number(sum),
  };
}

/** Two cores share the steps that run beside each other: half of all, or the longest. */
function sumOf(steps: readonly Step[]): number {
  const letters = [...new Set(steps.map(({ beside }) => beside))].filter((letter) => letter !== '');
  const secondsOf = (letter: string) => steps.filter(({ beside }) => beside === letter).map(({ seconds }) => seconds);
  const total = (seconds: readonly number[]) => seconds.reduce((sum, one) => sum + one, 0);
  const groups = letters.map(secondsOf).map((group) => Math.max(...group, Math.ceil(total(group) / 2)));
  return total(secondsOf('')) + total(groups);
}

describe('the table of what CI runs', () => {
  test('has exactly the steps of .ci/run, and what each may take', () => {
    expect(stepsOfCi()).not.toEqual([]);
    expect(table().steps).toEqual(stepsOfCi());
  });

  test('adds up, to at most an hour', () => {
    expect(table().sum).toBe(sumOf(stepsOfCi()));
    expect(table().sum).toBeLessThanOrEqual(MOST_SECONDS);
  });

  test('is of steps with different names: the summary tells them apart by nothing else', () => {
    const names = stepsOfCi().map(({ name }) => name);
    expect(names).toEqual([...new Set(names)]);
  });
});

describe('steps of CI', () => {
  let results: string;
  beforeEach(() => {
    results = mkdtempSync(join(tmpdir(), 'godwit-ci-steps-'));
  });
  afterEach(() => rmSync(results, { recursive: true, force: true }));

  async function run(program: string, args: readonly string[]): Promise<{ status: number | null; output: string }> {
    const environment = { ...process.env, CI_RESULTS: results, CI_STARTED: '', CI_DEADLINE: undefined };
    const child = spawn(process.execPath, [join(ROOT, 'tools', 'ci', program), ...args], { env: environment });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    const [status] = (await once(child, 'close')) as [number | null];
    return { status, output };
  }

  /** Runs a step whose command counts tests as Jest's reporter does, and prints `text`. */
  function counting(name: string, counts: object, text = ''): Promise<{ status: number | null; output: string }> {
    const program = `require('fs').appendFileSync(process.env.TALLY_FILE, ${JSON.stringify(`${JSON.stringify(counts)}\n`)}); console.log(${JSON.stringify(text)})`;
    return run('step.js', [name, '--takes', '100', '--', process.execPath, '-e', program]);
  }

  function lastLine(output: string): string | undefined {
    return output.trimEnd().split('\n').at(-1);
  }

  test('that run beside each other are counted exactly', async () => {
    const steps = Array.from({ length: 4 }, (_, n) =>
      counting(`step ${n}`, { passed: 10 ** n, failed: 0, skipped: n === 2 ? ['x (skipped: no such device)'] : [] }),
    );
    const ends = await Promise.all([...steps, run('skip.js', ['another', 'no such device'])]);
    expect(ends.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0]);
    const { status, output } = await run('summary.js', []);
    expect(lastLine(output)).toBe('1111 passed, 0 failed, 2 skipped');
    expect(output).toContain('  step 2: 100 passed, 0 failed, 1 skipped');
    expect(status).toBe(0);
  });

  test('that fail do not pass, and say why in the summary', async () => {
    const command = [process.execPath, '-e', "console.log('the disk is full'); process.exit(3)"];
    const [bad] = await Promise.all([
      run('step.js', ['bad', '--takes', '100', '--', ...command]),
      counting('good', { passed: 5, failed: 0, skipped: [] }),
    ]);
    expect(bad.status).toBe(1);
    const { status, output } = await run('summary.js', []);
    expect(output).toMatch(/^✗ bad: 0 passed, 1 failed, 0 skipped, .*: exit status 3$/m);
    expect(output).toContain('the disk is full');
    expect(lastLine(output)).toBe('5 passed, 1 failed, 0 skipped');
    expect(status).toBe(1);
  });

  test('that take longer than they may say so, and pass', async () => {
    await run('step.js', ['slow', '--takes', '0.001', '--', process.execPath, '-e', '']);
    const { status, output } = await run('summary.js', []);
    expect(output).toMatch(/^ {2}slow: 1 passed, 0 failed, 0 skipped, \d+\.\d s \(may take 0\.001\)$/m);
    expect(status).toBe(0);
  });

  test('that take much longer are ended with what they started', async () => {
    const sleeper = "require('child_process').spawn('sleep', ['60'], { stdio: 'inherit' })";
    const slow = await run('step.js', [
      'slow',
      '--takes',
      '1',
      '--timeout',
      '1',
      '--',
      process.execPath,
      '-e',
      sleeper,
    ]);
    expect(slow.status).toBe(1);
    expect(lastLine(slow.output)).toMatch(/^== slow: still running after 1 s/);
  });

  test('have to say what they may take', async () => {
    expect((await run('step.js', ['bad', '--', 'true'])).status).not.toBe(0);
  });
});
