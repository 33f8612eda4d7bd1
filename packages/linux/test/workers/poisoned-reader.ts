import { Userfaultfd } from '@godwit/linux';
import { ftruncate, MapFlags, memfdCreate, mmap, Uffd, viewOf } from '@godwit/linux/unstable';

/** Touches a poisoned page: this process is to die. */
const fd = memfdCreate('poisoned');
ftruncate(fd, 4096);
const address = mmap({ byteLength: 4096, flags: MapFlags.MAP_SHARED, fd });
const uffd = Userfaultfd.open(Uffd.UFFD_FEATURE_POISON);
uffd.register(address, 4096, Uffd.UFFDIO_REGISTER_MODE_MISSING);
if (uffd.poison(Number(address), 4096) !== 4096) throw uffd.failure();
uffd.close();
process.stdout.write('reading\n');
process.stdout.write(`read ${viewOf(address, 4096)[0]}\n`);
