import type UPlot from 'uplot';
import type { Known } from '../model/migration-model.js';
import { type ColorName, colorOf, onSchemeChange } from './colors.js';
import { byId, element, setText } from './dom.js';

/** A curve, or a row of bars. */
export interface Curve {
  readonly name: string;
  readonly color: ColorName;
  readonly kind?: 'line' | 'dashed' | 'steps' | 'bars';
  readonly values: readonly Known[];
}

/** What a chart shows. */
export interface ChartData {
  readonly x: readonly number[];
  readonly curves: readonly Curve[];
}

export interface ChartOptions {
  /** The id of the element that the chart is put into. */
  readonly into: string;
  /** What the chart shows, for screen readers. */
  readonly label: string;
  /** The text that stands there while there is nothing to draw. */
  readonly empty: string;
  readonly valueText: (value: Known) => string;
  readonly xText: (value: number) => string;
  /** The allowed distances between two marks of the vertical axis, in its unit. */
  readonly steps?: readonly number[];
  readonly logarithmic?: boolean;
}

const HEIGHT = 210;
/** Distances of marks for bytes: 1, 2, 4, ... 512 of each unit of 1024. */
export const BINARY_STEPS: readonly number[] = Array.from({ length: 45 }, (_, power) => 2 ** power);

/**
 * A chart with a legend that has the values of the last point, or of the point under the pointer. The arrow keys go from point to point,
 * and a screen reader reads out the values.
 */
export class Chart {
  readonly #options: ChartOptions;
  readonly #box: HTMLElement;
  readonly #empty: HTMLElement;
  readonly #legend = element('ul', { class: 'legend' });
  readonly #spoken = element('p', { class: 'unseen', role: 'status' });
  #plot: UPlot | undefined;
  #data: ChartData = { x: [], curves: [] };
  /** The names and kinds of the curves that the plot was made for. */
  #shape = '';
  #at: number | undefined;

  constructor(options: ChartOptions) {
    this.#options = options;
    this.#box = element('div', {
      class: 'chart',
      role: 'group',
      tabindex: '0',
      'aria-label': `${options.label}. Chart: the arrow keys go from point to point.`,
    });
    this.#empty = element('p', { class: 'empty' }, options.empty);
    byId(options.into).append(this.#empty, this.#box, this.#legend, this.#spoken);
    this.#box.addEventListener('keydown', (event) => this.#key(event));
    this.#box.addEventListener('blur', () => this.#pointAt(undefined));
    new ResizeObserver(() => this.#plot?.setSize({ width: this.#box.clientWidth, height: HEIGHT })).observe(this.#box);
    onSchemeChange(() => this.#remake());
    this.show(this.#data);
  }

  show(data: ChartData): void {
    this.#data = data;
    const nothing = data.x.length === 0 || data.curves.every(({ values }) => values.every((value) => value === null));
    this.#empty.hidden = !nothing;
    this.#box.hidden = nothing;
    this.#legend.hidden = nothing;
    if (nothing) return;
    const shape = JSON.stringify(data.curves.map(({ name, kind, color }) => [name, kind, color]));
    if (shape !== this.#shape || this.#plot === undefined) {
      this.#shape = shape;
      this.#remake();
    } else {
      this.#plot.setData(columnsOf(data));
    }
    this.#showValues();
  }

  #remake(): void {
    this.#plot?.destroy();
    this.#plot = undefined;
    if (this.#box.hidden) return;
    const Plot = (globalThis as unknown as { uPlot: typeof UPlot }).uPlot;
    this.#plot = new Plot(this.#plotOptions(Plot), columnsOf(this.#data), this.#box);
    this.#legend.replaceChildren(
      ...this.#data.curves.map(({ name, color, kind = 'line' }) =>
        element('li', {}, element('span', { class: `swatch ${kind} color-${color}` }), `${name} `, element('b', {})),
      ),
    );
    this.#showValues();
  }

  #plotOptions(Plot: typeof UPlot): UPlot.Options {
    const { xText, valueText, logarithmic = false, steps } = this.#options;
    const axis: Partial<UPlot.Axis> = {
      stroke: colorOf('muted'),
      grid: { stroke: colorOf('line'), width: 1 },
      ticks: { show: false },
      font: '12px system-ui, sans-serif',
    };
    return {
      width: this.#box.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      padding: [8, 12, 0, 0],
      scales: {
        x: { time: false, range: (_, low, high) => this.#xRange(low, high) },
        y: logarithmic
          ? {
              distr: 3,
              log: 2,
              range: (_, low, high) => [2 ** Math.floor(Math.log2(low) - 1), 2 ** Math.ceil(Math.log2(high) + 0.3)],
            }
          : { range: (_, _low, high) => [0, high > 0 ? high * 1.1 : 1] },
      },
      axes: [
        { ...axis, grid: { show: false }, space: 60, size: 30, values: (_, marks) => marks.map((mark) => xText(mark)) },
        {
          ...axis,
          size: 78,
          space: 36,
          values: (_, marks) => marks.map((mark) => (mark === null ? '' : valueText(mark))),
          ...(steps === undefined ? {} : { incrs: [...steps] }),
        },
      ],
      series: [{}, ...this.#data.curves.map((curve) => this.#series(curve, Plot))],
      hooks: {
        setCursor: [
          (plot) => {
            const { idx } = plot.cursor;
            this.#at = idx ?? undefined;
            this.#showValues();
          },
        ],
      },
    };
  }

  #series({ name, color, kind = 'line' }: Curve, Plot: typeof UPlot): UPlot.Series {
    const stroke = colorOf(color);
    const shared: UPlot.Series = { label: name, stroke, spanGaps: true, width: 2, points: { show: false } };
    if (kind === 'bars') {
      const paths = Plot.paths.bars?.({ size: [0.8, 48], align: 0 });
      return { ...shared, fill: `${stroke}b0`, width: 0, ...(paths === undefined ? {} : { paths }) };
    }
    if (kind === 'dashed') return { ...shared, dash: [6, 4], width: 1.5 };
    if (kind === 'steps') {
      const paths = Plot.paths.stepped?.({ align: -1 });
      return {
        ...shared,
        ...(paths === undefined ? {} : { paths }),
        points: { show: this.#data.x.length < 60, size: 5 },
      };
    }
    return color === 'wire' ? { ...shared, fill: colorOf('soft') } : shared;
  }

  /** A bar is as wide as the distance between bars, so that the range needs half a bar more at each end. */
  #xRange(low: number, high: number): [number, number] {
    if (this.#data.curves.some(({ kind }) => kind === 'bars')) return [low - 0.6, Math.max(high, low + 3) + 0.6];
    return [low, Math.max(high, low + 1)];
  }

  #key(event: KeyboardEvent): void {
    const last = this.#data.x.length - 1;
    const now = this.#at ?? last;
    const to: Partial<Record<string, number>> = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last };
    const next = to[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const index = Math.min(Math.max(next, 0), last);
    this.#pointAt(index);
    const { xText, valueText } = this.#options;
    const values = this.#data.curves.map(({ name, values: all }) => `${name} ${valueText(all[index] ?? null)}`);
    setText(this.#spoken, `${xText(this.#data.x[index] ?? 0)}: ${values.join(', ')}`);
  }

  #pointAt(index: number | undefined): void {
    const plot = this.#plot;
    if (plot === undefined) return;
    const left = index === undefined ? -10 : plot.valToPos(this.#data.x[index] ?? 0, 'x');
    plot.setCursor({ left, top: index === undefined ? -10 : 1 });
    this.#at = index;
    this.#showValues();
  }

  #showValues(): void {
    const { curves } = this.#data;
    for (const [index, item] of [...this.#legend.children].entries()) {
      const values = curves[index]?.values ?? [];
      const value = this.#at === undefined ? lastKnown(values) : (values[this.#at] ?? null);
      const text = item.querySelector('b');
      if (text !== null) setText(text, this.#options.valueText(value));
    }
  }
}

function columnsOf({ x, curves }: ChartData): UPlot.AlignedData {
  return [[...x], ...curves.map(({ values }) => [...values])];
}

function lastKnown(values: readonly Known[]): Known {
  for (let i = values.length - 1; i >= 0; i--) {
    const value = values[i];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}
