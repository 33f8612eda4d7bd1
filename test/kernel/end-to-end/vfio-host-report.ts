import type { TrackerHarvest } from '@godwit/core';

/** What a source is told. */
export interface SourceOrder {
  readonly role: 'source';
  readonly port: number;
  /** Leave out the tracker that sees DMA. */
  readonly blind: boolean;
  /** A mapping moves while the device writes through it; unordered: the order of changes and harvests is left out. */
  readonly moving?: 'ordered' | 'unordered';
  /** To type into mtty before it moves. */
  readonly text: string;
}

export interface SourceReport {
  readonly outcome:
    | { readonly verified: boolean; readonly pages: number; readonly downtimeMs: number }
    | { readonly code: string; readonly message: string };
  /** Of the machine, after the migration. */
  readonly state: string;
  /** By the device. */
  readonly writes: number;
  /** Times that the mapping was moved. */
  readonly moves: number;
  readonly rounds: readonly {
    readonly phase: string;
    readonly newlyDirtyPages: number;
    readonly trackers: readonly TrackerHarvest[];
  }[];
  readonly dmaDigest: string;
  readonly answer: string;
  /** What the guest's memory has that it should not, in words. */
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
