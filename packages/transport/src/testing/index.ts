export type { SuiteRunner, TransportCapabilities, TransportFixture } from './transport-fixture.js';
export { transportSuite } from './transport-suite.js';
