import { SHARE_IN_GUEST } from './init-script.js';
import { TALLY_FILE } from './test-machine.js';

/** Environment variables for what runs inside. */
export type Variables = Readonly<Record<string, string>>;

/** A script that runs the project's suites inside the test machine, with the same Node as this process. */
export function jestScript(root: string, patterns: readonly string[], variables: Variables = {}): string {
  const jest = ['node_modules/jest/bin/jest.js', '--config', 'test/kernel/jest.config.js', ...patterns];
  const node = [process.execPath, '--experimental-vm-modules', '--no-warnings=ExperimentalWarning'];
  return shellScript(root, quoted([...node, ...jest]), variables);
}

/** A script that runs a shell command in the project's folder inside the test machine. */
export function shellScript(root: string, command: string, variables: Variables = {}): string {
  const own = Object.entries(variables).map(([name, value]) => ` ${name}=${quoted([value])}`);
  const environment = `export CI=true TALLY_FILE=${SHARE_IN_GUEST}/${TALLY_FILE}${own.join('')}`;
  return `${environment}\nexport PATH=${quoted([nodeFolder()])}:$PATH\ncd ${quoted([root])}\n${command}\n`;
}

function nodeFolder(): string {
  return process.execPath.replace(/\/[^/]*$/, '');
}

function quoted(words: readonly string[]): string {
  return words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
}
