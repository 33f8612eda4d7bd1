import type { Known, MigrationModel, RoundModel } from '../model/migration-model.js';
import { bytesText, countText, msText, rateText } from '../model/quantity.js';
import { BINARY_STEPS, Chart, type Curve } from './chart.js';
import { cycledColor } from './colors.js';

/** The charts of the page. */
export class ChartsView {
  readonly #rate = new Chart({
    into: 'rate-chart',
    label: 'Transfer rate and dirty rate against the bandwidth, over time',
    empty: 'Nothing was sent yet.',
    valueText: rateText,
    xText: secondsText,
    steps: BINARY_STEPS,
  });
  readonly #downtime = new Chart({
    into: 'downtime-chart',
    label: 'Predicted downtime against its limit, over time',
    empty: 'There is no prediction yet.',
    valueText: msText,
    xText: secondsText,
  });
  readonly #rounds = new Chart({
    into: 'rounds-chart',
    label: 'Memory that each round sends, and memory that becomes dirty meanwhile',
    empty: 'No round has ended yet.',
    valueText: bytesText,
    xText: roundText,
    logarithmic: true,
  });
  readonly #trackers = new Chart({
    into: 'trackers-chart',
    label: 'Dirty rate that each tracker reports, by round',
    empty: 'No tracker has reported yet.',
    valueText: (value) => (value === null ? '–' : `${countText(value)} /s`),
    xText: secondsText,
  });

  show(model: MigrationModel): void {
    this.#showRates(model);
    this.#showDowntime(model);
    this.#showRounds(model);
    this.#showTrackers(model);
  }

  #showRates({ samples }: MigrationModel): void {
    const curves: Curve[] = [
      { name: 'On the wire', color: 'wire', values: samples.wire },
      { name: 'Link', color: 'link', values: samples.link },
      { name: 'Limit', color: 'limit', kind: 'dashed', values: samples.limit },
      { name: 'Dirty', color: 'dirty', values: samples.dirty },
    ];
    // The first curve is always shown, the others where their values are known. The rate of a link that is far faster than its limit
    // is left out, since it would flatten the other curves.
    const most = Math.max(...samples.wire.map(orZero), ...samples.dirty.map(orZero), ...samples.limit.map(orZero));
    const shown = curves.filter(({ name, values }, index) => {
      if (index === 0) return true;
      if (values.every((value) => value === null)) return false;
      return name !== 'Link' || orZero(values.at(-1) ?? null) <= 4 * most;
    });
    this.#rate.show({ x: seconds(samples.atMs), curves: shown });
  }

  #showDowntime({ samples, source }: MigrationModel): void {
    const limitMs = source?.downtimeLimitMs ?? null;
    const curves: Curve[] = [{ name: 'Expected', color: 'guest', values: samples.downtime }];
    if (limitMs !== null) {
      curves.push({ name: 'Limit', color: 'limit', kind: 'dashed', values: samples.atMs.map(() => limitMs) });
    }
    const nothing = samples.downtime.every((value) => value === null);
    this.#downtime.show({ x: seconds(samples.atMs), curves: nothing ? [] : curves });
  }

  #showRounds({ rounds: { kept }, source }: MigrationModel): void {
    const pageSize = source?.pageSize ?? 4096;
    // A logarithmic scale has no zero, so that zeros are not drawn.
    const bytes = (pages: Known) => (pages === null || pages === 0 ? null : pages * pageSize);
    // By post-copy the guest runs too, at the destination.
    const sent = (paused: boolean) =>
      kept.map((round) => ((round.phase === 'stop-and-copy') === paused ? bytes(round.dirtyPages) : null));
    const curves: Curve[] = [
      { name: 'Sent with the guest running', color: 'wire', kind: 'bars', values: sent(false) },
      { name: 'Sent in the pause', color: 'guest', kind: 'bars', values: sent(true) },
      { name: 'Dirtied meanwhile', color: 'dirty', values: kept.map(({ newlyDirtyPages }) => bytes(newlyDirtyPages)) },
    ];
    this.#rounds.show({
      x: kept.map(({ round }) => round),
      curves: curves.filter(({ values }, index) => index === 0 || values.some((value) => value !== null)),
    });
  }

  #showTrackers({ rounds: { kept }, source }: MigrationModel): void {
    const names = source?.trackers.map(({ name }) => name) ?? [];
    const reporting = kept.filter(({ trackers }) => trackers.length > 0);
    const curves = names.map(
      (name, index): Curve => ({
        name,
        color: cycledColor(index),
        kind: 'steps',
        values: reporting.map((round) => reportOf(round, name)),
      }),
    );
    // A report is drawn over the time since the report before it; the first one, over the time since the migration began.
    this.#trackers.show({
      x: [...(reporting.length > 0 ? [0] : []), ...seconds(reporting.map(({ atMs }) => atMs))],
      curves: curves.map((curve) => ({ ...curve, values: [...curve.values.slice(0, 1), ...curve.values] })),
    });
  }
}

function reportOf({ trackers }: RoundModel, name: string): Known {
  return trackers.find((tracker) => tracker.name === name)?.pagesPerSecond ?? null;
}

function seconds(milliseconds: readonly number[]): number[] {
  return milliseconds.map((value) => value / 1000);
}

function secondsText(value: number): string {
  return value < 100 ? `${Number(value.toFixed(2))} s` : msText(value * 1000);
}

function roundText(value: number): string {
  return Number.isInteger(value) && value > 0 ? String(value) : '';
}

function orZero(value: Known): number {
  return value ?? 0;
}
