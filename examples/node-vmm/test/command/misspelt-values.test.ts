import { GodwitError } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';
import { vmmProgram } from '../../dist/command/program.js';
import { encodingsOf } from '../../dist/vmm/encodings.js';
import { policyNamed } from '../../dist/vmm/policies.js';

/** The message with which `npm run vmm --` refuses its arguments, before it looks for a VMM or makes a guest. */
async function refusal(...argv: readonly string[]): Promise<string> {
  const program = vmmProgram(() => {});
  for (const command of program.commands) command.configureOutput({ writeErr: () => {} });
  return program.parseAsync(argv, { from: 'user' }).then(
    () => 'it was accepted',
    (error: Error) => error.message,
  );
}

describe('a misspelt value on the command line is refused with the one that was meant:', () => {
  test.each<readonly [string, readonly string[], string]>([
    ['migrate --policy', ['migrate', 'tcp:x:1', '--policy', 'urgnet'], 'vep291; did you mean "urgent"?'],
    ['adjust --policy', ['adjust', '--policy', 'gentel'], 'vep291; did you mean "gentle"?'],
    ['migrate --encodings', ['migrate', 'tcp:x:1', '--encodings', 'lz4,zsdt'], 'them; did you mean "zstd"?'],
    ['migrate --page-channels', ['migrate', 'tcp:x:1', '--page-channels', 'autp'], '64, or auto; did you mean "auto"?'],
    ['run --console', ['run', '--kernel', 'x', '--console', 'hcv0'], 'ttyS0, hvc0; did you mean "hvc0"?'],
    ['run --cpu', ['run', '--cpu', 'x86-64-v'], 'x86-64-v4; did you mean "x86-64'],
    ['run --order', ['run', '--order', 'sequental'], 'random; did you mean "sequential"?'],
  ])('%s', async (_name, argv, told) => {
    expect(await refusal(...argv)).toMatch(/^error: option '--.*' argument '.*' is invalid\. /);
    expect(await refusal(...argv)).toContain(told);
  });
});

test('options that do not go together, or have nothing to go with, are refused', async () => {
  expect(await refusal('run', '--cpu', 'host', '--no-kvm')).toContain('--cpu is for a guest on KVM');
  expect(await refusal('run', '--vcpus', '9')).toContain('a Linux (--kernel) up to 64');
  expect(await refusal('run', '--vcpus', '65', '--kernel', 'x')).toContain('It is a number from 1 to 64.');
  expect(await refusal('run', '--kernel', 'x', '--net', 'tap:')).toContain('such as tap:tap0');
});

test('a value that is near to none is refused with those that there are', async () => {
  expect(await refusal('adjust', '--policy', 'x')).toMatch(/Allowed choices are gentle, balanced, urgent, .*vep291\.$/);
  expect(await refusal('migrate', 'tcp:x:1', '--page-channels', 'x')).toContain('It is a number from 0 to 64.');
});

test('so are misspelt names in a request to the control socket', () => {
  const refused = (make: () => unknown): unknown => {
    try {
      return make();
    } catch (error) {
      return GodwitError.is(error) && { code: error.code, message: error.message };
    }
  };
  expect(refused(() => policyNamed('balancd' as never))).toEqual({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: expect.stringMatching(/^there is no policy "balancd"; there are gentle, .*; did you mean "balanced"\?$/),
  });
  expect(refused(() => encodingsOf(['dleta' as never]))).toEqual({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: 'there is no encoding "dleta"; there are delta, lz4, zstd; did you mean "delta"?',
  });
});
