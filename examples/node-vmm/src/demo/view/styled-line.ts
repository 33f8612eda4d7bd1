import type pc from 'picocolors';

type Colors = ReturnType<typeof pc.createColors>;

export type Colour =
  | 'plain'
  | 'bold'
  | 'dim'
  | 'source'
  | 'destination'
  | 'raw'
  | 'zero'
  | 'empty'
  | 'good'
  | 'warn'
  | 'bad'
  | 'link';

/** Text of one colour. Every character that the view prints is one column wide. */
export interface Span {
  readonly text: string;
  readonly colour: Colour;
}

export function span(text: string, colour: Colour = 'plain'): Span {
  return { text, colour };
}

export type StyledLine = readonly Span[];

export function widthOf(line: StyledLine): number {
  return line.reduce((sum, { text }) => sum + text.length, 0);
}

/** Cuts a line at `width` columns: a line that the terminal wraps would shift the view, which is redrawn in place. */
export function cut(line: StyledLine, width: number): StyledLine {
  const kept: Span[] = [];
  let room = width;
  for (const { text, colour } of line) {
    if (room <= 0) break;
    const piece = text.length > room ? `${text.slice(0, Math.max(0, room - 1))}…` : text;
    kept.push({ text: piece, colour });
    room -= piece.length;
  }
  return kept;
}

/** `left` at the left edge, `right` at the right edge; `right` is left out when there is no room for both. */
export function spread(left: StyledLine, right: StyledLine, width: number): StyledLine {
  const gap = width - widthOf(left) - widthOf(right);
  return gap < 1 ? cut(left, width) : [...left, span(' '.repeat(gap)), ...right];
}

/** Wraps text to as many lines as it needs, all but the first indented by `indent` columns. */
export function wrap(text: string, width: number, indent: number, colour: Colour): StyledLine[] {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const last = lines.at(-1) ?? '';
    const joined = last === '' ? word : `${last} ${word}`;
    if (joined.length <= width - indent || last === '') lines[lines.length - 1] = joined;
    else lines.push(word);
  }
  return lines.map((line, at) => [span(' '.repeat(at === 0 ? 0 : indent)), span(line, colour)]);
}

/** The line with the terminal's colour codes. */
export function paint(line: StyledLine, colors: Colors): string {
  return line
    .map(({ text, colour }) => brush(colour, colors)(text))
    .join('')
    .trimEnd();
}

function brush(colour: Colour, colors: Colors): (text: string) => string {
  switch (colour) {
    case 'plain':
      return (text) => text;
    case 'bold':
      return colors.bold;
    case 'dim':
    case 'empty':
      return colors.dim;
    case 'source':
      return colors.cyan;
    case 'destination':
      return colors.magenta;
    case 'raw':
      return colors.blue;
    case 'zero':
      return colors.gray;
    case 'good':
      return colors.green;
    case 'warn':
      return colors.yellow;
    case 'bad':
      return colors.red;
    case 'link':
      return colors.green;
  }
}
