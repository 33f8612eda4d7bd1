export { type SuiteRunner, type TransportFixture, transportSuite } from './transport-suite.js';
