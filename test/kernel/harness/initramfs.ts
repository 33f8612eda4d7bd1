import { readFileSync, writeFileSync } from 'node:fs';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import type { KernelModule } from './kernel-modules.js';

/** A file of the file system that a kernel starts with: busybox, modules, and an `init` that switches to the host's root. */
export interface InitramfsFile {
  /** The path, without a leading slash; the folders that contain the file have to come before it. */
  readonly path: string;
  /** st_mode: type and permissions */
  readonly mode: number;
  readonly content?: Uint8Array;
  /** The numbers of a device node. */
  readonly device?: readonly [major: number, minor: number];
}

/** sys/stat.h */
export const FileMode = { FOLDER: 0o040755, PROGRAM: 0o100755, FILE: 0o100644, CHARACTER_DEVICE: 0o020600 } as const;

/** cpio's "new ASCII" format, which is what the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst). */
export function cpioArchive(files: readonly InitramfsFile[]): Uint8Array {
  const parts = [...files, { path: 'TRAILER!!!', mode: 0 }].flatMap((file, index) => entry(file, index + 1));
  return Buffer.concat(parts);
}

function entry(file: InitramfsFile, inode: number): Uint8Array[] {
  const content = file.content ?? new Uint8Array(0);
  const name = Buffer.from(`${file.path}\0`);
  const [major, minor] = file.device ?? [0, 0];
  const fields = [inode, file.mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, name, padding(header.length + name.length), content, padding(content.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}

/** Writes an initramfs with busybox, the modules (under /modules, in their order) and `/init`. */
export function writeInitramfs(
  path: string,
  tree: Pick<DebianTree, 'program'>,
  modules: readonly KernelModule[],
): void {
  const init = initScript(modules.map(({ name }) => `/modules/${name}.ko`));
  const files: InitramfsFile[] = [
    { path: 'bin', mode: FileMode.FOLDER },
    { path: 'bin/busybox', mode: FileMode.PROGRAM, content: readFileSync(tree.program('busybox')) },
    { path: 'dev', mode: FileMode.FOLDER },
    // The kernel opens this console for init before anything is mounted (Documentation/admin-guide/initrd.rst).
    { path: 'dev/console', mode: FileMode.CHARACTER_DEVICE, device: [5, 1] },
    { path: 'modules', mode: FileMode.FOLDER },
    ...modules.map(({ name, content }) => ({ path: `modules/${name}.ko`, mode: FileMode.FILE, content })),
    { path: 'init', mode: FileMode.PROGRAM, content: Buffer.from(init) },
  ];
  writeFileSync(path, cpioArchive(files));
}
