import { type ErrorCode, GodwitError, type MigrationEvent, type RoundRecord } from '@godwit/core';
import { type LimitsInForce, type Observation, observe, type PageServer } from '@godwit/observe';
import type { ControlClient } from '../control/control-client.js';
import type { MoveSummary } from '../control/control-protocol.js';
import { PassedOn } from '../demo/passed-on.js';

/** The time between two questions for the limits in force, which any client may adjust. Milliseconds. */
const LIMITS_MS = 1000;

export interface MigrationPageOptions {
  /** 0: any free port. */
  readonly port: number;
  readonly title: string;
}

/**
 * The live page of a migration that a running VMM makes. The client's process serves it, from the events that the VMM sends, since the VMM
 * ends when its guest has moved.
 */
export class MigrationPage {
  readonly #events = new PassedOn<MigrationEvent>();
  readonly #rounds: RoundRecord[] = [];
  readonly #observation: Observation;
  readonly #timer: NodeJS.Timeout;
  readonly #client: ControlClient;
  #limits: LimitsInForce = {};
  #server: PageServer | undefined;

  private constructor(client: ControlClient, title: string) {
    this.#client = client;
    this.#observation = observe(this.#events, { title, limits: () => this.#limits });
    this.#timer = setInterval(() => this.#askLimits(), LIMITS_MS);
  }

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT when the page cannot be served at that port */
  static async open(client: ControlClient, { port, title }: MigrationPageOptions): Promise<MigrationPage> {
    const page = new MigrationPage(client, title);
    try {
      page.#server = await servedAt(page.#observation, port);
    } catch (error) {
      await page.close();
      throw error;
    }
    return page;
  }

  get url(): string {
    return this.#server?.url ?? '';
  }

  /** Takes an event of the migration. */
  hear(event: MigrationEvent): void {
    if (event.type === 'round') this.#rounds.push(event.round);
    if (event.type === 'state') this.#askLimits();
    this.#events.pass(event);
  }

  /** The migration has succeeded: the VMM replies with the figures in the place of the event `completed`. */
  completed(summary: MoveSummary): void {
    this.#over({ type: 'completed', summary: { ...summary, rounds: this.#rounds } });
  }

  /** The migration has failed: the VMM replies with the error in the place of the event `failed`. */
  failed(error: { readonly code?: ErrorCode; readonly message: string }): void {
    this.#over({ type: 'failed', error: new GodwitError(error.code ?? 'GODWIT_INTERNAL', error.message) });
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#observation.close();
  }

  #over(event: MigrationEvent): void {
    clearInterval(this.#timer);
    this.#events.pass(event);
  }

  #askLimits(): void {
    this.#client.ask('status', {}).then(
      ({ migration }) => {
        if (migration !== undefined) this.#limits = migration;
      },
      // The reply to the migration says what has happened to the VMM.
      () => {},
    );
  }
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT when the page cannot be served at that port */
export async function servedAt(observation: Observation, port: number): Promise<PageServer> {
  try {
    return await observation.serve({ port });
  } catch (error) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `--page: ${(error as Error).message}`, { cause: error });
  }
}
