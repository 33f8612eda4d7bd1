import { createLogUpdate } from 'log-update';
import picocolors from 'picocolors';
import type { TimedEvent } from '../demo-event.js';
import { jsonLine } from '../json-lines.js';
import { plainLines } from './plain-lines.js';
import { render } from './render.js';
import { paint } from './styled-line.js';
import { EMPTY_VIEW, reduce } from './view-state.js';

/** Shows the events of a run. */
export interface Output {
  show(event: TimedEvent): void;
  /** Called after the last event: restores the terminal. */
  end(): void;
}

const FRAMES_PER_SECOND = 15;

/** Whether to use colours: not with `--no-color`, nor where NO_COLOR is not empty (no-color.org). */
export function wantsColour(asked: boolean, environment: Readonly<Record<string, string | undefined>>): boolean {
  return asked && !environment['NO_COLOR'];
}

export function jsonOutput(write: (text: string) => void): Output {
  return {
    show: (event) => write(`${jsonLine(event)}\n`),
    end: () => {},
  };
}

export function plainOutput(write: (text: string) => void): Output {
  let view = EMPTY_VIEW;
  return {
    show(event) {
      view = reduce(view, event);
      for (const line of plainLines(event, view)) write(`${line}\n`);
    },
    end: () => {},
  };
}

/**
 * Redraws the view in place, 15 times a second: drawing at every event would flicker. Without `colour` the view has the same characters,
 * without colours.
 */
export function liveOutput(stream: NodeJS.WriteStream, now: () => number, colour: boolean): Output {
  const colors = picocolors.createColors(colour);
  const log = createLogUpdate(stream);
  let view = EMPTY_VIEW;
  const draw = () => {
    // The last column and row stay free: a full last line would scroll the terminal.
    const lines = render(view, stream.columns - 1, stream.rows - 1, now());
    log(lines.map((line) => paint(line, colors)).join('\n'));
  };
  // The view is drawn at once, since modules and processes take some time to start.
  draw();
  const timer = setInterval(draw, 1000 / FRAMES_PER_SECOND);
  return {
    show(event) {
      view = reduce(view, event);
    },
    end() {
      clearInterval(timer);
      // The last picture fits the terminal if possible; further lines go to the scrollback.
      const lines = render(view, stream.columns - 1, stream.rows - 1, now());
      log.clear();
      log.done();
      stream.write(`${lines.map((line) => paint(line, colors)).join('\n')}\n`);
    },
  };
}
