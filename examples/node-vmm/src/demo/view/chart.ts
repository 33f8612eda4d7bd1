import { type Colour, type Span, span } from './styled-line.js';

const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;
const LEVELS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

/** A horizontal bar of `fraction` * `width` columns, exact to an eighth of a column, padded to `width`. */
export function bar(fraction: number, width: number, colour: Colour): Span[] {
  const eighths = Math.round(clamp(fraction) * width * 8);
  const filled = '█'.repeat(Math.floor(eighths / 8)) + (EIGHTHS[eighths % 8] ?? '');
  return [span(filled, colour), span(' '.repeat(width - filled.length))];
}

export interface BarPart {
  readonly amount: number;
  readonly colour: Colour;
  readonly glyph?: string;
}

/** Several amounts side by side; `total` is the whole width. The edges are rounded, so that the parts add up. */
export function stackedBar(parts: readonly BarPart[], total: number, width: number): Span[] {
  const spans: Span[] = [];
  let sum = 0;
  let edge = 0;
  for (const { amount, colour, glyph } of parts) {
    if (amount <= 0 || total <= 0) continue;
    sum += amount;
    const next = Math.min(width, Math.max(1, Math.round((sum / total) * width)));
    spans.push(span((glyph ?? '█').repeat(next - edge), colour));
    edge = next;
  }
  spans.push(span(' '.repeat(width - edge)));
  return spans;
}

/** The last `width` values as columns of eight heights, `top` being the full height. */
export function sparkline(values: readonly number[], width: number, top: number, colour: Colour): Span[] {
  const shown = values.slice(-width);
  const text = shown
    .map((value) => (value <= 0 ? ' ' : (LEVELS[Math.min(7, Math.floor(clamp(value / top) * 7.999))] ?? ' ')))
    .join('');
  return [span(' '.repeat(width - shown.length)), span(text, colour)];
}

/** A gauge from 0 to `scale` with a mark at `limit`. */
export function gauge(value: number, limit: number, scale: number, width: number, colour: Colour): Span[] {
  const filled = Math.round(clamp(value / scale) * width);
  const mark = Math.min(width - 1, Math.round(clamp(limit / scale) * width));
  const spans: Span[] = [];
  for (let at = 0; at < width; at++) {
    const text = at === mark ? '┃' : at < filled ? '█' : '░';
    const kind: Colour = at === mark ? 'bold' : at < filled ? colour : 'empty';
    const last = spans.at(-1);
    if (last !== undefined && last.colour === kind) spans[spans.length - 1] = span(last.text + text, kind);
    else spans.push(span(text, kind));
  }
  return spans;
}

function clamp(fraction: number): number {
  return Number.isFinite(fraction) ? Math.min(1, Math.max(0, fraction)) : 1;
}
