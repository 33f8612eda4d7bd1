/**
 * A program: records a migration into the file that it is given, where files cannot grow beyond a limit (`ulimit -f`), and
 * prints how it went. With `go-on` the migration does not depend on the recording.
 */
import { recordTo } from '@godwit/transport';
import { codeOf, recordedMigration } from './recorded-migration.js';

const [path = '', mode] = process.argv.slice(2);
const heard: string[] = [];
const recording = await recordTo(path, mode === 'go-on' ? { onFailure: ({ code }) => heard.push(code) } : {});
const { source, destination, sent, received } = await recordedMigration(recording, {
  pages: 8192,
  migrate: { verify: true, pageChannels: 2 },
});
const [closed] = await Promise.allSettled([recording.close()]);
const running = [source.running && 'source', destination.running && 'destination'].filter(Boolean);
const message = String((closed as PromiseRejectedResult).reason);
process.stdout.write(
  JSON.stringify({ sent: codeOf(sent), received: codeOf(received), running, heard, closed: codeOf(closed), message }),
);
