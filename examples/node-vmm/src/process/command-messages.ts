/** The commands of a process, by name: the request and the reply of each. Both must be copyable by structured clone. */
export type CommandTable<Commands> = {
  readonly [Name in keyof Commands]: { readonly request: unknown; readonly reply: unknown };
};

/** The handler of each command of a process. A rejection is sent to the parent as an error. */
export type CommandHandlers<Commands extends CommandTable<Commands>> = {
  readonly [Name in keyof Commands]: (request: Commands[Name]['request']) => Promise<Commands[Name]['reply']>;
};

/** Parent to process. */
export interface CommandRequest {
  readonly id: number;
  readonly command: string;
  readonly request: unknown;
}

/** Process to parent: the answer to the request with this id. */
export type CommandAnswer =
  | { readonly type: 'reply'; readonly id: number; readonly value: unknown }
  | { readonly type: 'error'; readonly id: number; readonly code: string; readonly message: string };
