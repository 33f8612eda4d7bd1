import type { GuestPlace, MigrationModel } from '../model/migration-model.js';

/** What the states mean, for people. A state that is not listed is shown by its name alone. */
const STATE_WORDS: Readonly<Record<string, string>> = {
  none: 'not begun',
  setup: 'the two sides agree on what moves',
  active: 'memory moves while the guest runs',
  reconnecting: 'the link is lost, and made anew',
  'pre-switchover': 'paused, waiting for proceed',
  device: 'the guest is paused, the rest and its devices move',
  settling: 'the destination is asked whether it runs the guest',
  'postcopy-device': 'the guest is paused: its devices are sent, its memory follows',
  'postcopy-active': 'the guest runs; the rest of its memory follows',
  'postcopy-paused': 'the link is lost, and pages are missing',
  'postcopy-recover': 'the link is made anew, and pages are missing',
  cancelling: 'giving up',
  cancelled: 'given up; the guest is where it was',
  completed: 'what was asked for is done',
  failed: 'ended with an error',
};

const SOURCE_WORDS: Readonly<Record<string, string>> = {
  running: 'The guest runs here.',
  paused: 'The guest is paused here for the switchover.',
  transferring: 'Asks whether it may hand the guest over.',
  handedOver: 'Has said “go”, and waits for the answer.',
  released: 'Has released its copy of the guest.',
  kept: 'Keeps the guest.',
  unknown: 'Does not know whether the destination runs the guest.',
  recovered: 'Has taken the guest back.',
};

const DESTINATION_WORDS: Readonly<Record<string, string>> = {
  receiving: 'Receives the guest’s state.',
  ready: 'Has everything, and waits for “go”.',
  asking: 'Asks whether the guest is its own.',
  recovering: 'Asks whether the guest is its own.',
  running: 'The guest runs here.',
  settled: 'The guest runs here, and the source knows.',
  untold: 'The guest runs here; the source could not be told.',
  stranded: 'Holds the guest and cannot run it.',
  abandoned: 'Has dropped what came.',
  recovered: 'Has taken the guest.',
};

const TERM_WORDS: Readonly<Record<string, string>> = {
  pauseMs: 'stop the vCPUs',
  harvestMs: 'last harvest',
  ramMs: 'last dirty pages',
  deviceMs: 'save devices',
  loadMs: 'load devices',
  roundTripMs: 'round trips',
  resumeMs: 'start the vCPUs',
};

const KIND_WORDS: Readonly<Record<string, string>> = {
  raw: 'as they are',
  zero: 'zero',
  hole: 'never written',
  delta: 'as deltas',
  compressed: 'compressed',
};

export function stateWords(state: string): string {
  return STATE_WORDS[state] ?? '';
}

export function sourceWords(ownership: string, state: string): string {
  if (ownership === 'handedOver' && state.startsWith('postcopy-') && state !== 'postcopy-device') {
    return 'Has pages that the guest needs at the destination, and sends them.';
  }
  return SOURCE_WORDS[ownership] ?? `Its ownership is “${ownership}”.`;
}

export function destinationWords(ownership: string): string {
  return DESTINATION_WORDS[ownership] ?? `Its ownership is “${ownership}”.`;
}

export function termWords(term: string): string {
  return TERM_WORDS[term] ?? term;
}

export function kindWords(kind: string): string {
  return KIND_WORDS[kind] ?? kind;
}

export function placeWords(place: GuestPlace): string {
  switch (place) {
    case 'source':
      return 'The source owns the guest';
    case 'destination':
      return 'The destination owns the guest';
    case 'between':
      return 'The guest is paused between the two';
    case 'unknown':
      return 'Nobody knows for certain who owns the guest';
  }
}

/** How a state is coloured. */
export function stateTone(state: string): 'good' | 'bad' | 'busy' | 'held' | 'idle' {
  if (state === 'completed') return 'good';
  if (state === 'failed' || state === 'cancelled' || state === 'cancelling') return 'bad';
  if (state === 'none') return 'idle';
  return state === 'active' || state === 'setup' ? 'busy' : 'held';
}

/** What the state of the migration as a whole means. After a dry run or a background snapshot the guest is still at the source. */
export function wholeWords(state: string, guest: GuestPlace): string {
  if (state !== 'completed') return stateWords(state);
  return guest === 'source' ? 'done; the guest stays at the source' : 'the guest has moved';
}

/** The state of the migration as a whole: the source's, where it is watched. */
export function wholeState({ source, destination }: MigrationModel): string {
  return source?.states.state ?? destination?.states.state ?? 'none';
}
