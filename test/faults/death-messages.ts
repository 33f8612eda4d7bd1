/** Orders of the runner to one of the two processes. */
export type DeathOrder =
  /** To the destination: receive a guest, and die as `death` says, if given. */
  | { readonly order: 'receive'; readonly death?: Death; readonly postcopy: boolean }
  /** To the source: boot a guest and migrate it to this port, and die as `death` says, if given. */
  | { readonly order: 'migrate'; readonly port: number; readonly death?: Death; readonly postcopy: boolean }
  /** The runner has seen the other process die. */
  | { readonly order: 'peer-died' }
  | { readonly order: 'examine' }
  | { readonly order: 'end' };

/** The process kills itself (SIGKILL) before this frame of its control stream is written (`out`) or taken (`in`). */
export interface Death {
  readonly direction: 'out' | 'in';
  readonly frame: number;
}

export type DeathReport =
  | { readonly report: 'listening'; readonly port: number }
  /** The migration has ended in this process; `code` is missing if it succeeded. */
  | { readonly report: 'ended'; readonly code?: string; readonly message?: string }
  /** The guest runs in this process after a call of `recover`. */
  | { readonly report: 'recovered'; readonly from: string }
  | { readonly report: 'examined'; readonly running: boolean; readonly problems: readonly string[] };
