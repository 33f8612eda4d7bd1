import { EventfdFlags, OpenFlags } from '../libc/file-descriptor.js';
import { MapFlags, MemoryAdvice, Protection } from '../libc/mapping.js';
import { FallocateMode, MemfdFlags, SeekWhence } from '../libc/memory-file.js';
import { POLLFD, PollEvents } from '../libc/poll.js';
import { ResourceLimit } from '../libc/resource-limit.js';
import { FileControl, IOVEC, MSGHDR, SocketNumbers, UIO_MAXIOV } from '../libc/socket.js';
import { UFFD_USER_MODE_ONLY } from '../libc/syscall-number.js';
import { SIGACTION } from '../libc/thread-signal.js';
import { defines, type KernelLayout, struct } from './kernel-layout.js';

/** The flags that `libc/` passes, against the C library's headers. */
export const libcLayouts: readonly KernelLayout[] = [
  ...defines('fcntl.h', OpenFlags),
  ...defines('sys/eventfd.h', EventfdFlags),
  ...defines('sys/mman.h', Protection),
  ...defines('sys/mman.h', MapFlags),
  ...defines('linux/mman.h', MemoryAdvice),
  ...defines('linux/memfd.h', MemfdFlags),
  ...defines('linux/falloc.h', FallocateMode),
  ...defines('linux/fs.h', SeekWhence),
  ...defines('sys/resource.h', ResourceLimit),
  ...defines('linux/userfaultfd.h', { UFFD_USER_MODE_ONLY }),
  ...defines('fcntl.h', FileControl),
  ...defines('sys/socket.h', SocketNumbers),
  ...defines('linux/uio.h', { UIO_MAXIOV }),
  ...defines('poll.h', PollEvents),
  struct('poll.h', 'pollfd', POLLFD.size, POLLFD.fields),
  struct('sys/uio.h', 'iovec', IOVEC.size, IOVEC.fields),
  struct('sys/socket.h', 'msghdr', MSGHDR.size, MSGHDR.fields),
  struct('signal.h', 'sigaction', SIGACTION.size, SIGACTION.fields),
];
