/**
 * `@godwit/linux/userfaultfd`: page faults of ranges of this process's memory, alone: without RxJS, for threads, which must start quickly.
 *
 * @module @godwit/linux/userfaultfd
 */
export { Uffd } from '../layouts/userfaultfd.js';
export { FaultMessages, type UserfaultEvent } from './fault-messages.js';
export { type AddressRange, type RangeUse, SharedUserfaultfd } from './shared-userfaultfd.js';
export { type PutOptions, Userfaultfd } from './userfaultfd.js';
