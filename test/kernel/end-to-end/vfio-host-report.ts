import type { TrackerHarvest } from '@godwit/core';

/** The order to a source. */
export interface SourceOrder {
  readonly role: 'source';
  readonly port: number;
  /** Whether to leave out the tracker that sees DMA. */
  readonly blind: boolean;
  /**
   * Whether a mapping moves while the device writes through it; `unordered`: without the order between changes and
   * harvests.
   */
  readonly moving?: 'ordered' | 'unordered';
  /** The text to type into mtty before the migration. */
  readonly text: string;
}

export interface SourceReport {
  readonly outcome:
    | { readonly verified: boolean; readonly pages: number; readonly downtimeMs: number }
    | { readonly code: string; readonly message: string };
  /** The state of the machine after the migration. */
  readonly state: string;
  /** The number of the device's writes. */
  readonly writes: number;
  /** How often the mapping was moved. */
  readonly moves: number;
  readonly rounds: readonly {
    readonly phase: string;
    readonly newlyDirtyPages: number;
    readonly trackers: readonly TrackerHarvest[];
  }[];
  readonly dmaDigest: string;
  readonly answer: string;
  /** What is wrong with the guest's memory, in words. */
  readonly defects: readonly string[];
}

export type DestinationReport =
  | {
      readonly arrived: true;
      readonly pages: number;
      readonly defects: readonly string[];
      readonly dmaDigest: string;
      readonly answer: string;
    }
  | { readonly arrived: false; readonly code: string };
