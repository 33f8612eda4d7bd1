import type { Departure, GuestSpec, MoveSettings, Patience } from '../vmm.js';

/** Commands to a process with a node-vmm machine, and its answers. */
export interface HostCommands {
  /** `source`: the guest runs; `destination`: the machine stands and waits. */
  start: {
    request: { readonly spec: GuestSpec; readonly role: 'source' | 'destination'; readonly neverRearm: boolean };
    reply: null;
  };
  listen: { request: { readonly settings: MoveSettings }; reply: number };
  send: {
    request: { readonly port: number; readonly settings: MoveSettings; readonly patience: Patience };
    reply: Departure;
  };
  arrival: { request: null; reply: number };
  save: { request: { readonly path: string }; reply: null };
  restore: { request: { readonly path: string }; reply: null };
  firstBytes: { request: null; reply: Uint8Array };
}

export type CommandName = keyof HostCommands;

export type HostRequest = { readonly id: number } & {
  [Name in CommandName]: { readonly command: Name; readonly request: HostCommands[Name]['request'] };
}[CommandName];

export type HostMessage =
  | { readonly type: 'reply'; readonly id: number; readonly value: unknown }
  | { readonly type: 'error'; readonly id: number; readonly message: string }
  | { readonly type: 'printed'; readonly text: string };
