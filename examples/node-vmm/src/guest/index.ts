export * from './boot-params.js';
export * from './image.js';
export * from './layout.js';
export * from './ports.js';
