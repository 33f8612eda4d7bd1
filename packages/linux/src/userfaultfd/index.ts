export { Userfaultfd } from './userfaultfd.js';
