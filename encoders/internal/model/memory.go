package model

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// How many times its weights a model takes at most while it is loaded. Measured with ONNX Runtime 1.32 on models of
// 200 and 400 MB of matrices: 1.4 times with the weights in the file and 1.1 with them beside it; in half precision,
// which a CPU computes in single, 4.0 and 2.9 times.
const (
	loading     = 1.5
	loadingHalf = 4
)

// enoughMemory refuses a model before it is read that will not fit: beyond the limit (10^6 bytes; 0: none), or beyond
// what the machine or its container has free. The pictures of a batch (0 numbers: not known) count, of which two are
// held at once; what the network makes of them inside is not known beforehand.
func enoughMemory(f *File, limitMB int, cpu bool, batch, numbers int) error {
	need := float64(f.Bytes) * loading / 1e6
	if cpu {
		need += float64(f.HalfBytes) * (loadingHalf - loading) / 1e6
	}
	what, smaller := fmt.Sprintf("%s takes about %.0f MB to load", f.Path, need), "use a smaller model"
	if pictures := 2 * 4 * float64(batch) * float64(numbers) / 1e6; pictures >= 1 {
		what += fmt.Sprintf(" and %.0f MB for pictures in batches of %d", pictures, batch)
		if pictures > need {
			smaller = "lower the setting batch"
		}
		need += pictures
	}
	if limitMB > 0 && need > float64(limitMB) {
		return plugins.Errorf(plugins.Exhausted, "%s, more than the limit of %d MB", what, limitMB).
			WithHint("raise the setting memory_mb, or %s", smaller)
	}
	if free, whose := freeMB(); free > 0 && need > free {
		return plugins.Errorf(plugins.Exhausted, "%s, %s has %.0f MB free", what, whose, free).
			WithHint("%s or use a machine with more memory, or end other programs", smaller)
	}
	return nil
}

// Where the kernel tells of memory; variables so that tests can give their own.
var meminfo, cgroup = "/proc/meminfo", "/sys/fs/cgroup"

// freeMB is what the machine and the control group leave, in 10^6 bytes, and which of them says so; 0: unknown.
func freeMB() (mb float64, whose string) {
	data, _ := os.ReadFile(meminfo)
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			mb, whose = kib*1024/1e6, "the machine"
		}
	}
	number := func(name string) float64 {
		text, err := os.ReadFile(filepath.Join(cgroup, name))
		if err != nil {
			return -1
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			return -1 // "max"
		}
		return v / 1e6
	}
	if most, used := number("memory.max"), number("memory.current"); most > 0 && used >= 0 &&
		(mb == 0 || most-used < mb) {
		return most - used, "the container"
	}
	return mb, whose
}
