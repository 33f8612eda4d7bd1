import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

/** The error for a program that is in none of the folders. */
export class ProgramMissing extends Error {
  constructor(name: string, folders: readonly string[]) {
    super(
      `there is no program ${name} in ${folders.join(', ') || 'any folder'}: install Debian's package of it, or delete ` +
        'what is cached, so that it is unpacked again',
    );
  }
}

/**
 * The path of a program: the first executable file of this name in these folders. A bare name would be enough for running it,
 * but some programs are read as files and copied into the test machine.
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

/** The folders of programs in unpacked Debian packages. */
const UNPACKED = ['usr/bin', 'bin', 'usr/sbin', 'sbin'];
/** The folders of a machine's own programs, whatever `PATH` says. */
const MACHINE = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** Looks programs up: first among those that were unpacked into `folder`, then among the machine's own. */
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
