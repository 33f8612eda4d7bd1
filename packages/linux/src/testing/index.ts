export { type Comparison, compareWithHeaders, findCompiler, nameOf } from './compare-with-headers.js';
