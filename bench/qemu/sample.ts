/** The figures, and their names in tables. Times in milliseconds. */
export const FIGURES = {
  /** From the command until the guest runs at the destination; of a snapshot, until it is on the disk. */
  totalMs: 'total, ms',
  /** The same as the VMM reports it. */
  saidTotalMs: 'says, ms',
  /** The last prediction of the downtime before the pause. */
  predictedDowntimeMs: 'down: predicted, ms',
  /** The downtime as the VMM reports it. */
  saidDowntimeMs: 'down: says, ms',
  /** From the pause of the guest until it runs again, by the events of both processes. */
  downtimeMs: 'down: really, ms',
  /** How often the guest was paused. */
  pauses: 'pauses',
  wireMiB: 'wire, MiB',
  /** From the command to restore until the guest runs. */
  loadMs: 'load, ms',
  /** Threads that waited for a page. */
  faults: 'faults',
  /** The median, the 99 % and the 99.9 % quantile, and the maximum of the waits: the upper ends of their buckets in a log2 histogram. */
  faultMedianUs: 'fault: median below, us',
  fault99Us: '99 % below, us',
  fault999Us: '99.9 % below, us',
  faultWorstUs: 'all below, us',
  /** From the pause until the guest is at 90 % of the speed that it had before. */
  speedMs: 'down and slow, ms',
  diskMiB: 'disk, MiB',
} as const;

export type FigureName = keyof typeof FIGURES;

/** One run of one entrant. */
export interface Sample {
  readonly figures: Readonly<Partial<Record<FigureName, number>>>;
  /** False when the run ended only after the downtime limit was raised. */
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
  /** The work in one line of text. */
  readonly title: string;
  /** The figures that tables show. */
  readonly columns: readonly FigureName[];
  /** True when a run may never end by itself: tables then show how many did. */
  readonly mayNeverEnd: boolean;
  readonly entrants: readonly Entrant[];
}
