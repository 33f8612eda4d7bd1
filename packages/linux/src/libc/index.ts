/** `@godwit/linux/unstable/libc`: the system calls through koffi, alone. **May change in any version.** */
export { callAsync, check, checkAsync, MAP_FAILED, resultOrNegativeErrno } from './call.js';
export { openDevice } from './device-node.js';
export { Errno, errnoName } from './errno.js';
export {
  closeFd,
  closeFdAsync,
  duplicateFd,
  EventfdFlags,
  eventfd,
  OpenFlags,
  openFile,
  readFd,
  readFdAsync,
  tryOpenFile,
  writeFd,
  writeFdAsync,
} from './file-descriptor.js';
export { requestGuestState } from './guest-state.js';
export { exactArgument, intArgument, sizeArgument } from './integer-argument.js';
export { uninterrupted, uninterruptedAsync } from './interrupted.js';
export { type IoctlArgument, ioctl, ioctlAsync, tryIoctl, tryIoctlAsync, tryIoctlOnce } from './ioctl.js';
export { cFunction, cFunctionAddress, lastErrno } from './library.js';
export {
  addressOf,
  HOST_PAGE_SIZE,
  MapFlags,
  type MapRequest,
  MemoryAdvice,
  madvise,
  madviseAsync,
  mincore,
  mmap,
  munmap,
  Protection,
  viewOf,
} from './mapping.js';
export {
  FallocateMode,
  fallocate,
  ftruncate,
  MemfdFlags,
  memfdCreate,
  punchHole,
  seekData,
  seekHole,
} from './memory-file.js';
export { POLLFD, PollEvents, PollSet } from './poll.js';
export { ResourceLimit, resourceLimit } from './resource-limit.js';
export { yieldProcessor } from './scheduler.js';
export {
  FileControl,
  GatherList,
  receiveFrom,
  resetOnClose,
  SocketNumbers,
  setBlocking,
  setReceiveTimeout,
  shutdownSocket,
  socketPair,
  UIO_MAXIOV,
} from './socket.js';
export { SpliceFlags, SplicePipe } from './splice.js';
export { SyscallError } from './syscall-error.js';
export { SYSCALLS, type SyscallNumbers, syscallNumbers, UFFD_USER_MODE_ONLY, userfaultfd } from './syscall-number.js';
export { getThreadId, installWakeSignal, signalThread, WAKE_SIGNAL } from './thread-signal.js';
export { setRealTime, setTimeSlice } from './time-slice.js';
