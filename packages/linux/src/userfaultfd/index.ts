export { FaultMessages, type UserfaultEvent } from './fault-messages.js';
export { type AddressRange, type RangeUse, SharedUserfaultfd } from './shared-userfaultfd.js';
export { type PutOptions, Userfaultfd } from './userfaultfd.js';
