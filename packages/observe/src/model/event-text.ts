import type { DowntimeTerms, IncomingEvent, MigrationEvent, MigrationSummary } from '@godwit/core';
import type { LogEntry } from './migration-model.js';
import { shortened } from './plain.js';
import { bytesText, countText, msText, rateText, shareText } from './quantity.js';

/** A line of the log, without its time and side. */
export type Line = Pick<LogEntry, 'level' | 'text'>;

/** Names of the downtime's terms, for people. */
const TERMS: Readonly<Record<keyof DowntimeTerms, string>> = {
  pauseMs: 'stopping the vCPUs',
  harvestMs: 'the last harvest',
  ramMs: 'the last dirty pages',
  deviceMs: 'saving device state',
  loadMs: 'loading device state',
  roundTripMs: 'messages to and fro',
  resumeMs: 'starting the vCPUs',
};

/** The line of the log for an event of the source; `undefined` for frequent events, which are not logged. */
export function sourceLine(event: MigrationEvent): Line | undefined {
  switch (event.type) {
    case 'status':
      return info(`watched from here on: the state is ${event.status.state}, round ${event.status.progress.round}`);
    case 'state':
      return stateLine(event.state, event.previous);
    case 'ownership':
      return info(`ownership: ${event.previous}, now ${event.ownership}`);
    case 'connect-failed':
      return warning(`attempt ${event.attempt} to connect failed: ${failure(event.reason)}`);
    case 'link-lost':
      return warning(`the link is lost: ${failure(event.reason)}`);
    case 'reconnected':
      return info(
        `connection ${event.connection} is there, after ${msText(event.downMs)}${event.restarted ? '; the destination has lost everything: it is sent again' : ''}`,
      );
    case 'free-pages':
      return info(
        `${event.name} has named ${countText(event.pages)} free pages in ${msText(event.ms)}${event.complete ? '' : ', and not all yet'}: they are not sent`,
      );
    case 'round':
      return info(
        `round ${event.round.round}: ${countText(event.round.dirtyPages)} pages, ${bytesText(event.round.wireBytes)} on the wire in ${msText(event.round.totalMs)}; ${event.round.decision.action}: ${event.round.decision.reason}`,
      );
    case 'switchover-start':
      return info(
        `switchover, attempt ${event.attempt}: the guest is paused ${event.limitMs === 0 ? 'for as long as it takes' : `for at most ${msText(event.limitMs)}`}`,
      );
    case 'went-back':
      return warning(
        `switchover, attempt ${event.attempt}, given up after ${msText(event.elapsedMs)} in ${TERMS[event.term] ?? event.term}: ${failure(event.reason)}`,
      );
    case 'not-prepared':
      return warning(`the destination is not prepared yet: waited ${msText(event.waitedMs)} with the guest running`);
    case 'prepared':
      return info(`the destination is prepared, after ${msText(event.waitedMs)}`);
    case 'downtime-exceeded':
      return warning(
        `the guest was down for ${msText(event.downtimeMs)}, the limit is ${msText(event.limitMs)}: mostly ${TERMS[event.term] ?? event.term}`,
      );
    case 'limit-unreachable':
      return warning(
        `the limit of ${msText(event.limitMs)} cannot be reached: without a page left the guest would be down for ${msText(event.fixedMs)}`,
      );
    case 'throttle':
      return info(
        `the guest is held back for ${shareText(event.fraction)} of its time, before ${shareText(event.previous)}: ${event.reason}`,
      );
    case 'bandwidth':
      return info(`the bandwidth limit is ${limitText(event.bytesPerSecond)}: ${event.reason}`);
    case 'shadow':
      return info(`shadow policy ${event.shadow.name}: ${event.shadow.action} (${event.shadow.reason})`);
    case 'dry-run':
      return info(`dry run: ${event.report.peer} runs ${event.report.software}`);
    case 'warning':
      return warning(`${event.code}: ${event.message}`);
    case 'verified':
      return good(`${countText(event.pages)} pages of both sides compared in ${msText(event.verifyMs)}: equal`);
    case 'completed':
      return good(completedText(event.summary));
    case 'failed':
      return bad(`failed: ${failure(event.error)}`);
    case 'progress':
    case 'protection':
    case 'round-start':
      return undefined;
    default:
      return unknown(event satisfies never);
  }
}

/** The line of the log for an event of the destination; `undefined` for frequent events, which are not logged. */
export function destinationLine(event: IncomingEvent): Line | undefined {
  switch (event.type) {
    case 'status':
      return info(`watched from here on: the state is ${event.status.state}`);
    case 'state':
      return stateLine(event.state, event.previous);
    case 'ownership':
      return info(`ownership: ${event.previous}, now ${event.ownership}`);
    case 'hello':
      return info(`hello from ${event.peer}${event.dryRun ? ', for a dry run' : ''}`);
    case 'link-lost':
      return warning(`the link is lost: ${failure(event.reason)}`);
    case 'reconnected':
      return info(`${event.peer} is back, connection ${event.connection}`);
    case 'went-back':
      return warning(`the source has given up attempt ${event.attempt}: the guest runs there again`);
    case 'source-may-run':
      return warning(
        `all is loaded, and the link is lost; the source may be running the guest: ${failure(event.reason)}`,
      );
    case 'running':
      return good(`the guest runs here, started in ${msText(event.resumeMs)}`);
    case 'round':
      return info(`round ${event.round} received: ${countText(event.pages)} pages`);
    case 'warning':
      return warning(`${event.code}: ${event.message}`);
    case 'completed':
      return good(`completed: ${event.summary.rounds} rounds, device state loaded in ${msText(event.summary.loadMs)}`);
    case 'failed':
      return bad(`failed: ${failure(event.error)}`);
    case 'progress':
    case 'faults':
      return undefined;
    default:
      return unknown(event satisfies never);
  }
}

/** A dry run sends no page, so that there is no downtime. */
function completedText({ totalMs, downtimeMs, dryRun }: MigrationSummary): string {
  const after = `completed in ${msText(totalMs)}`;
  return dryRun === undefined ? `${after}; the guest was down for ${msText(downtimeMs)}` : `dry run ${after}`;
}

function stateLine(state: string, previous: string): Line {
  const text = `state: ${previous}, now ${state}`;
  return state === 'failed' ? bad(text) : state === 'completed' ? good(text) : info(text);
}

/** The line for an event of a later version of the engine: only its name. */
function unknown(event: { readonly type: string }): Line {
  return info(event.type);
}

function failure({ code, message }: { readonly code: string; readonly message: string }): string {
  return `${code}: ${message}`;
}

function limitText(bytesPerSecond: number): string {
  return bytesPerSecond === 0 ? 'none' : rateText(bytesPerSecond);
}

function info(text: string): Line {
  return { level: 'info', text: shortened(text) };
}

function good(text: string): Line {
  return { level: 'good', text: shortened(text) };
}

function warning(text: string): Line {
  return { level: 'warning', text: shortened(text) };
}

function bad(text: string): Line {
  return { level: 'bad', text: shortened(text) };
}
