/** The time limit of a test, in milliseconds: more where `GODWIT_TEST_TIMEOUT` says so, since the processor may be emulated. */
export function timeLimit(ms: number): number {
  return Math.max(ms, Number(process.env['GODWIT_TEST_TIMEOUT'] ?? 0));
}
