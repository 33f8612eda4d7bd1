import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

/** Where a program was looked for and is not. */
export class ProgramMissing extends Error {
  constructor(name: string, folders: readonly string[]) {
    super(
      `there is no program ${name} in ${folders.join(', ') || 'any folder'}: install Debian's package of it, or delete ` +
        'what is cached, so that it is unpacked again',
    );
  }
}

/**
 * The path of a program: the first executable file of this name in these folders. A bare name would be enough to run it, but a
 * program is also read, as a file, and copied into the test machine.
 *
 * @throws ProgramMissing
 */
export function programIn(folders: readonly string[], name: string): string {
  for (const folder of folders) {
    const path = join(folder, name);
    if (isProgram(path)) return path;
  }
  throw new ProgramMissing(name, folders);
}

/** Where the programs of Debian packages are that were unpacked into a folder. */
const UNPACKED = ['usr/bin', 'bin', 'usr/sbin', 'sbin'];
/** Where a machine's own are, whatever `PATH` says. */
const MACHINE = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** Looks programs up: those that were unpacked into `folder` first, then the machine's own. */
export function programLookup(folder: string, path: string | undefined): (name: string) => string {
  const folders = [...UNPACKED.map((bin) => join(folder, bin)), ...pathFolders(path), ...MACHINE];
  return (name) => programIn(folders, name);
}

/** The folders of a `PATH`; an entry that depends on the current folder is left out. */
export function pathFolders(path: string | undefined): readonly string[] {
  return (path ?? '').split(delimiter).filter((folder) => isAbsolute(folder));
}

function isProgram(path: string): boolean {
  try {
    if (!statSync(path).isFile()) return false;
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
