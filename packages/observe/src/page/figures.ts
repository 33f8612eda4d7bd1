import type { Known, MigrationModel, SummaryModel } from '../model/migration-model.js';
import { bytesText, countText, msText, rangeText, rateText, shareText, usText } from '../model/quantity.js';
import { byId, element, setText } from './dom.js';

interface Figure {
  readonly key: string;
  readonly name: string;
  readonly value: string;
  readonly note: string;
}

/** The most important figures, each with a line that explains it. */
export class FiguresView {
  readonly #list = byId('figures');
  readonly #shown = new Map<
    string,
    { readonly box: HTMLElement; readonly name: HTMLElement; readonly value: HTMLElement; readonly note: HTMLElement }
  >();

  show(model: MigrationModel): void {
    const figures = figuresOf(model);
    for (const { key, name, value, note } of figures) {
      const parts = this.#shown.get(key) ?? this.#add(key);
      setText(parts.name, name);
      setText(parts.value, value);
      setText(parts.note, note);
    }
    const keys = new Set(figures.map(({ key }) => key));
    for (const [key, { box }] of this.#shown) box.hidden = !keys.has(key);
  }

  #add(key: string) {
    const parts = {
      box: element('div', { class: 'figure', 'data-figure': key }),
      name: element('dt'),
      value: element('dd', { class: 'value' }),
      note: element('dd', { class: 'note' }),
    };
    parts.box.append(parts.name, parts.value, parts.note);
    this.#list.append(parts.box);
    this.#shown.set(key, parts);
    return parts;
  }
}

function figuresOf(model: MigrationModel): Figure[] {
  const { source, elapsedMs } = model;
  if (source === null) return destinationFigures(model);
  const { progress, summary, downtime, downtimeLimitMs, bandwidthLimit, pageSize } = source;
  const limit = downtimeLimitMs === null ? '' : `limit ${msText(downtimeLimitMs)}`;
  const down: Figure =
    downtime?.actualMs !== undefined && downtime.actualMs !== null
      ? figure('downtime', 'Downtime', msText(downtime.actualMs), expected(downtime.predictedMs, limit))
      : figure(
          'downtime',
          'Downtime, expected',
          msText(progress.predictedDowntimeMs),
          joinedNotes(downtime === null ? '' : rangeText(downtime.predictedRangeMs), limit),
        );
  const saved = progress.savedBytes > 0 ? `, ${bytesText(progress.savedBytes)} saved` : '';
  return [
    figure(
      'elapsed',
      model.over ? 'Total time' : 'Time',
      msText(elapsedMs),
      summary === null ? remainingNote(model) : verifiedNote(summary),
    ),
    ...(model.origin === 'recording' ? [] : [down]),
    figure(
      'wire',
      'On the wire',
      bytesText(progress.wireBytes),
      `of ${bytesText(progress.rawBytes)} of memory${saved}`,
    ),
    model.over
      ? figure(
          'mean-rate',
          'Mean rate',
          rateText(elapsedMs > 0 ? (progress.wireBytes / elapsedMs) * 1000 : null),
          limitNote(bandwidthLimit),
        )
      : figure('rate', 'Rate', rateText(progress.wireBytesPerSecond), limitNote(bandwidthLimit)),
    ...(model.over
      ? []
      : [
          figure(
            'dirty',
            'Dirty rate',
            rateText(pageSize === null ? null : progress.dirtyPagesPerSecond * pageSize),
            `${countText(progress.dirtyPagesPerSecond)} pages a second`,
          ),
        ]),
    figure('rounds', 'Rounds', countText(model.rounds.count), `attempt ${countText(source.attempt)} to switch over`),
    ...(summary === null || summary.postcopy === null
      ? []
      : [
          figure(
            'postcopy',
            'Followed by post-copy',
            `${countText(summary.postcopy.pages)} pages`,
            followedNote(summary.postcopy),
          ),
        ]),
    ...(summary === null || summary.background === null
      ? []
      : [
          figure(
            'background',
            'Saved while it ran',
            `${countText(summary.background.pages)} pages`,
            savedNote(summary.background),
          ),
        ]),
    ...(progress.throttle > 0 || (summary?.throttledMs ?? 0) > 0
      ? [
          figure(
            'throttle',
            'Guest held back',
            shareText(progress.throttle),
            summary === null ? 'of its time' : `${msText(summary.throttledMs)} in all`,
          ),
        ]
      : []),
  ];
}

function destinationFigures({ destination, elapsedMs, over }: MigrationModel): Figure[] {
  if (destination === null) return [];
  const pages = Object.values(destination.pages).reduce((sum, count) => sum + count, 0);
  return [
    figure('elapsed', over ? 'Total time' : 'Time', msText(elapsedMs), ''),
    figure('wire', 'Received', bytesText(destination.wireBytes), 'on the wire'),
    figure('pages', 'Pages', countText(pages), `round ${countText(destination.round)}`),
    figure('load', 'Devices loaded in', msText(destination.loadMs), ''),
  ];
}

function figure(key: string, name: string, value: string, note: string): Figure {
  return { key, name, value, note };
}

function expected(predictedMs: Known, limit: string): string {
  return joinedNotes(predictedMs === null ? '' : `expected ${msText(predictedMs)}`, limit);
}

function joinedNotes(...notes: readonly string[]): string {
  return notes.filter((note) => note !== '').join(', ');
}

function limitNote(bandwidthLimit: Known): string {
  if (bandwidthLimit === null) return '';
  return bandwidthLimit === 0 ? 'no limit' : `limit ${rateText(bandwidthLimit)}`;
}

function remainingNote({ source, over }: MigrationModel): string {
  const remainingMs = source?.progress.remainingMs ?? null;
  return over || remainingMs === null ? '' : `about ${msText(remainingMs)} to go`;
}

function followedNote({ ms, lostLinks }: { readonly ms: number; readonly lostLinks: number }): string {
  const lost = lostLinks === 1 ? 'the link was lost once' : `the link was lost ${countText(lostLinks)} times`;
  return joinedNotes(`in ${msText(ms)}`, lostLinks > 0 ? lost : '');
}

function savedNote({ savingMs, faults, worstLatencyUs }: NonNullable<SummaryModel['background']>): string {
  const waited = `${countText(faults)} waits of the guest, the longest ${usText(worstLatencyUs)}`;
  return joinedNotes(`in ${msText(savingMs)}`, faults > 0 ? waited : 'the guest never waited');
}

function verifiedNote({
  verified,
  verifiedPages,
}: {
  readonly verified: boolean;
  readonly verifiedPages: number;
}): string {
  return verified ? `${countText(verifiedPages)} pages compared: equal` : 'memory not compared';
}
