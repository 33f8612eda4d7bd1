/** Orders of the runner to one of the two processes. */
export type DeathOrder =
  /** To the destination: wait for a guest, and die before frame `frame` of a direction if that is given. */
  | { readonly order: 'receive'; readonly death?: Death }
  /** To the source: boot a guest and migrate it to this port. */
  | { readonly order: 'migrate'; readonly port: number; readonly death?: Death }
  /** The other process is dead: the runner has seen it die. */
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
  /** The role is over here; `code` is missing when it ended well. */
  | { readonly report: 'ended'; readonly code?: string; readonly message?: string }
  /** The guest runs here after an explicit `recover`. */
  | { readonly report: 'recovered'; readonly from: string }
  | { readonly report: 'examined'; readonly running: boolean; readonly problems: readonly string[] };
