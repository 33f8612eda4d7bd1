import type { DowntimeTerms } from '@godwit/core';
import type { DemoEvent } from '../demo-event.js';
import { formatMs, formatRate, formatShare } from '../quantity.js';

/** Names of the downtime's terms, for people. */
export const TERMS: Readonly<Record<keyof DowntimeTerms, string>> = {
  pauseMs: 'stop the vCPUs',
  harvestMs: 'last harvest',
  ramMs: 'last dirty pages',
  deviceMs: 'save device state',
  loadMs: 'load device state',
  roundTripMs: 'messages to and fro',
  resumeMs: 'start the vCPUs',
};

/** Events about a switchover: its start, its end, and why it waits. */
export type News = Extract<
  DemoEvent,
  {
    readonly event:
      | 'status'
      | 'connect-failed'
      | 'switchover-start'
      | 'went-back'
      | 'not-prepared'
      | 'prepared'
      | 'downtime-exceeded'
      | 'limit-unreachable'
      | 'throttle'
      | 'bandwidth'
      | 'migration-failed';
  }
>;

/** The event as one line of text. */
export function newsText(news: News): string {
  switch (news.event) {
    case 'status':
      return `the migration is in state ${news.state}, round ${news.round}, attempt ${news.attempt}`;
    case 'connect-failed':
      return `attempt ${news.attempt} to connect failed: ${news.code}: ${news.message}`;
    case 'switchover-start':
      return `switchover, attempt ${news.attempt}: the guest is paused ${news.limitMs === 0 ? 'for as long as it takes' : `for at most ${formatMs(news.limitMs)}`}`;
    case 'went-back':
      return `switchover, attempt ${news.attempt}, given up after ${formatMs(news.elapsedMs)} (${TERMS[news.term]}): ${news.code}: ${news.message}`;
    case 'not-prepared':
      return `the destination is not prepared yet: waited ${formatMs(news.waitedMs)} with the guest running`;
    case 'prepared':
      return `the destination is prepared, after ${formatMs(news.waitedMs)}`;
    case 'downtime-exceeded':
      return `down for ${formatMs(news.downtimeMs)}, the limit is ${formatMs(news.limitMs)}: mostly ${TERMS[news.term]}`;
    case 'limit-unreachable':
      return `the limit of ${formatMs(news.limitMs)} cannot be reached: without a page left the guest would be down for ${formatMs(news.fixedMs)}`;
    case 'throttle':
      return news.fraction === 0
        ? `the guest is no longer held back: ${news.reason}`
        : `the guest is held back for ${formatShare(news.fraction)} of its time, before ${formatShare(news.previous)}: ${news.reason}`;
    case 'bandwidth':
      return `the limit of the pre-copy is ${limitText(news.bytesPerSecond)}, before ${limitText(news.previous)}: ${news.reason}`;
    case 'migration-failed':
      return `the migration failed: ${news.code}: ${news.message}`;
  }
}

function limitText(bytesPerSecond: number): string {
  return bytesPerSecond === 0 ? 'none' : formatRate(bytesPerSecond);
}
