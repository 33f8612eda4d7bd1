/**
 * `@godwit/transport/testing`: the suite that every transport passes, and streams that break as planned.
 *
 * @module @godwit/transport/testing
 */
export type { Fault, FaultPlace, FaultPlan } from './fault-plan.js';
export { faulty, faultyStream } from './faulty.js';
export { FrameFinder } from './frame-finder.js';
export { limited } from './limited.js';
export { type CertificateOptions, type TestCertificate, testCertificate } from './test-certificate.js';
export type { SuiteRunner, TransportCapabilities, TransportFixture } from './transport-fixture.js';
export { transportSuite } from './transport-suite.js';
