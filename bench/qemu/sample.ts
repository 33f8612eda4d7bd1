/** The figures, and how tables call them. Times in milliseconds. */
export const FIGURES = {
  /** From the command until the guest runs at the destination; of a snapshot, until it is on the disk. */
  totalMs: 'total, ms',
  /** The same by the VMM's own word. */
  saidTotalMs: 'says, ms',
  /** The downtime as it was expected, last before the guest stood still. */
  predictedDowntimeMs: 'down: predicted, ms',
  /** The downtime by the VMM's own word. */
  saidDowntimeMs: 'down: says, ms',
  /** From the moment when the guest stood still to the one when it ran again, by the events of both processes. */
  downtimeMs: 'down: really, ms',
  /** How often the guest was made to stand still. */
  pauses: 'pauses',
  wireMiB: 'wire, MiB',
  /** From the command to restore until the guest runs. */
  loadMs: 'load, ms',
  diskMiB: 'disk, MiB',
} as const;

export type FigureName = keyof typeof FIGURES;

/** One run of one entrant. */
export interface Sample {
  readonly figures: Readonly<Partial<Record<FigureName, number>>>;
  /** False when it went on until it was given another downtime limit. */
  readonly endedByItself?: boolean;
  /** The report of the guest's memory, when it was wrong. */
  readonly wrong?: string;
}

/** One way to do the work of a case. */
export interface Entrant {
  /** `QEMU 11.1.3, multifd x2` */
  readonly name: string;
  measure(): Promise<Sample>;
}

/** Work that all entrants do. */
export interface Case {
  readonly name: string;
  /** One line for a person: what the work is. */
  readonly title: string;
  /** The figures that tables show. */
  readonly columns: readonly FigureName[];
  /** True when a run may go on for ever: tables then show how many ended by themselves. */
  readonly mayNeverEnd: boolean;
  readonly entrants: readonly Entrant[];
}
