import { fork } from 'node:child_process';
import { CommandProcess } from '../process/command-process.js';
import type { HostName } from './demo-event.js';
import type { HostCommands, HostMessage } from './host-protocol.js';

/** How long a host may take to free its guest before it is killed. Milliseconds. */
const SHUTDOWN_MS = 5000;

/** The controller's side of a host process. */
export class HostProcess extends CommandProcess<HostCommands, HostMessage> {
  constructor(name: HostName, onMessage: (message: HostMessage) => void) {
    const child = fork(new URL('./host.js', import.meta.url), [name], {
      // Structured clone is used because predictions may be infinite, which JSON does not have.
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    super(name, child, onMessage);
  }

  /** Lets the host free its guest and exit; kills a host that does not. */
  shutdown(): Promise<void> {
    return this.end(SHUTDOWN_MS);
  }
}
