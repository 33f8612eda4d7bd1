export { DeviceModel, type DeviceModelOptions } from './device-model.js';
export { IommufdModel, type IommufdModelDevice } from './iommufd-model.js';
export { LoggingModel } from './logging-model.js';
export { deviceBytes, framedState } from './state-stream.js';
export { Type1Model, type Type1ModelOptions } from './type1-model.js';
export { copyFromUser, copyToUser } from './user-memory.js';
export { type ModelGroup, VfioModel } from './vfio-model.js';
