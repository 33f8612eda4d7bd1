import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/judge. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
const CANNOT_RUN_HERE = 3;

/** An entry of `query-qmp-schema`: the fields that are read here. */
interface SchemaEntry {
  readonly name: string;
  readonly 'meta-type': string;
  readonly values?: readonly string[];
  readonly members?: readonly { readonly name: string; readonly type: string }[];
  readonly 'arg-type'?: string;
  readonly 'ret-type'?: string;
}

// Downloads QEMU if it is not in the cache yet.
const run = spawnSync(process.execPath, [join(ROOT, 'bench/dist/cli.js'), 'qemu', '--names'], {
  encoding: 'utf8',
  timeout: 600_000,
  maxBuffer: 2 ** 26,
});
const obstacle =
  run.status === CANNOT_RUN_HERE ? /cannot run here: (.*)/.exec(run.stderr)?.[1]?.replaceAll(/[()]/g, '') : undefined;

function compare(): void {
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 });
  const { version, schema, capabilities } = JSON.parse(run.stdout) as {
    readonly version: string;
    readonly schema: readonly SchemaEntry[];
    readonly capabilities: readonly { readonly capability: string }[];
  };
  const entries = new Map(schema.map((entry) => [entry.name, entry]));
  const typeOf = (name: string | undefined) => entries.get(name ?? '') as SchemaEntry;
  const membersOf = (type: string | undefined, prefix = ''): string[] =>
    (typeOf(type).members ?? []).flatMap((member) => [
      prefix + member.name,
      ...(typeOf(member.type)['meta-type'] === 'object' ? membersOf(member.type, `${prefix + member.name}.`) : []),
    ]);
  const named = (kind: string, pattern: RegExp) =>
    schema.filter((entry) => entry['meta-type'] === kind && pattern.test(entry.name)).map(({ name }) => name);
  const info = typeOf(typeOf('query-migrate')['ret-type']);
  const found = {
    qemu: version,
    Commands: named('command', /migrat|dirty|^snapshot|colo/),
    Capabilities: capabilities.map(({ capability }) => capability),
    Parameters: membersOf(typeOf('migrate-set-parameters')['arg-type']),
    States: typeOf(info.members?.find(({ name }) => name === 'status')?.type).values,
    Statistics: membersOf(info.name),
    Events: named('event', /MIGR|COLO|UNPLUG/),
  };
  const sorted = (names: object) =>
    Object.fromEntries(
      Object.entries(names).map(([key, list]) => [key, Array.isArray(list) ? [...list].sort() : list]),
    );
  const listed = JSON.parse(readFileSync(join(ROOT, 'test', 'unit', 'qemu-names.json'), 'utf8')) as object;
  expect(sorted(found)).toEqual(sorted(listed));
}

if (obstacle === undefined) test('the names of docs/qemu-map.md are those of the newest QEMU', compare, 600_000);
else test.skip(`the names of docs/qemu-map.md are those of the newest QEMU (skipped: ${obstacle})`, compare);
