import { PORT_DEFECT } from '../guest/ports.js';
import type { PortDevice } from './port-device.js';

/** The port by which a guest that checks its own memory reports a defect. */
export class DefectPort implements PortDevice {
  readonly firstPort = PORT_DEFECT;
  readonly portCount = 4;
  readonly #report: (value: number) => void;

  constructor(report: (value: number) => void) {
    this.#report = report;
  }

  read(): number {
    return 0;
  }

  write(_port: number, _size: number, value: number): void {
    this.#report(value);
  }
}
