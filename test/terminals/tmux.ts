import { execFileSync, spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** The interval at which a screen is read, in milliseconds: a terminal does not signal changes. */
const LOOK_MS = 50;
const PATIENCE_MS = 90_000;

/** A separate server of tmux, without the user's settings. */
export class Tmux {
  readonly #name = `godwit-test-${process.pid}-${Math.floor(Math.random() * 1e6)}`;
  #terminals = 0;

  /** Why tmux cannot be used; undefined if it can. */
  static problem(): string | undefined {
    return spawnSync('tmux', ['-V']).error === undefined ? undefined : 'tmux is not installed';
  }

  /** Starts a command in a terminal of its own, which stays when the command has ended and then shows its exit status. */
  open(command: readonly string[], { columns = 120, rows = 30 } = {}): Terminal {
    const session = `t${++this.#terminals}`;
    const size = ['-x', String(columns), '-y', String(rows)];
    // A shell prints the command's exit status, which tmux 3.3 does not always report. Ctrl-C reaches the shell too,
    // which must survive it.
    const shell = [
      'sh',
      '-c',
      'trap : INT; "$@"; printf "\n[exit status %s]\n" $?; exec sleep infinity',
      'sh',
      ...command,
    ];
    this.run('-f', '/dev/null', 'new-session', '-d', '-s', session, ...size, ...shell);
    return new Terminal(this, session, command.join(' '));
  }

  run(...args: readonly string[]): string {
    return execFileSync('tmux', ['-L', this.#name, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  close(): void {
    spawnSync('tmux', ['-L', this.#name, 'kill-server']);
  }
}

export class Terminal {
  readonly #tmux: Tmux;
  readonly #session: string;
  readonly #command: string;

  constructor(tmux: Tmux, session: string, command: string) {
    this.#tmux = tmux;
    this.#session = session;
    this.#command = command;
  }

  /** All lines, including those that have scrolled off the screen; wrapped lines are joined. */
  get text(): string {
    return this.#tmux.run('capture-pane', '-p', '-J', '-S', '-', '-t', this.#session);
  }

  /** What is on the screen now, line by line. */
  get screen(): readonly string[] {
    return this.#tmux.run('capture-pane', '-p', '-t', this.#session).trimEnd().split('\n');
  }

  /** Presses keys, by their names in tmux: `C-c`. */
  press(key: string): void {
    this.#tmux.run('send-keys', '-t', this.#session, key);
  }

  /** Resolves with the match once the text matches; rejects with the text if it does not in time. */
  async shows(wanted: RegExp, patienceMs = PATIENCE_MS): Promise<RegExpExecArray> {
    return this.until(`${wanted}`, () => wanted.exec(this.text) ?? undefined, patienceMs);
  }

  /** Resolves with the exit status of the command: of one that a signal has ended, 128 and its number. */
  async exit(patienceMs = PATIENCE_MS): Promise<number> {
    return Number((await this.shows(/^\[exit status (\d+)\]$/m, patienceMs))[1]);
  }

  async until<T>(what: string, look: () => T | undefined, patienceMs = PATIENCE_MS): Promise<T> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      if (performance.now() > deadline) {
        throw new Error(`${this.#command}: waited ${patienceMs / 1000} s for ${what}; its terminal has:\n${this.text}`);
      }
      await sleep(LOOK_MS);
    }
  }
}
