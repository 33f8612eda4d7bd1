import { type DirtyTracker, GodwitError } from '@godwit/core';

/**
 * Stands for a device whose writes no tracker would see: the migration is refused with its reason, which `dryRun`
 * reports too.
 */
export class UnseenDeviceTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots = 'everything';
  readonly #reason: string;

  /** @param reason in words for a person, with what to do */
  constructor(name: string, reason: string) {
    this.name = name;
    this.#reason = reason;
  }

  migrationBlocker(): string {
    return this.#reason;
  }

  async start(): Promise<void> {
    throw new GodwitError('GODWIT_UNSUPPORTED', this.#reason);
  }

  async harvest(): Promise<void> {
    throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
  }

  async stop(): Promise<void> {}
}
