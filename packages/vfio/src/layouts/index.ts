export * from './device-feature.js';
export * from './iommufd.js';
export * from './type1.js';
export * from './vfio-setup.js';
