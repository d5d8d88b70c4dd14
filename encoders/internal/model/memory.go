package model

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Peak memory while a model is loaded, as a multiple of its weights. ONNX Runtime 1.32 took, for models
// with 200 and 400 MB of matrices, 1.4 times with the weights in the model file and 1.1 times with a
// separate weight file. For half precision, which a CPU computes in float32, it took 4.0 and 2.9 times.
const (
	loadFactor     = 1.5
	loadFactorHalf = 4
)

// checkMemory returns an error of kind Exhausted if a model would need more memory than limitMB (in 10^6
// bytes; 0: no limit), or more than the machine or its container has free. It counts two batches of
// pictures, each with batch times elements float32 values. The memory of the network's intermediate results
// is unknown, so it does not count.
func checkMemory(f *File, limitMB int, cpu bool, batch, elements int) error {
	need := float64(f.Bytes) * loadFactor / 1e6
	if cpu {
		need += float64(f.HalfBytes) * (loadFactorHalf - loadFactor) / 1e6
	}
	what, remedy := fmt.Sprintf("%s needs about %.0f MB to load", f.Path, need), "use a smaller model"
	if pictures := 2 * 4 * float64(batch) * float64(elements) / 1e6; pictures >= 1 {
		what += fmt.Sprintf(" and %.0f MB for pictures in batches of %d", pictures, batch)
		if pictures > need {
			remedy = "lower the setting batch"
		}
		need += pictures
	}
	if limitMB > 0 && need > float64(limitMB) {
		return plugins.Errorf(plugins.Exhausted, "%s, more than the limit of %d MB", what, limitMB).
			WithHint("raise the setting memory_mb, or %s", remedy)
	}
	if free, owner := freeMB(); free > 0 && need > free {
		return plugins.Errorf(plugins.Exhausted, "%s, but %s has only %.0f MB free", what, owner, free).
			WithHint("%s, use a machine with more memory, or end other programs", remedy)
	}
	return nil
}

// Where the kernel reports memory. Tests replace the paths.
var meminfo, cgroup = "/proc/meminfo", "/sys/fs/cgroup"

// freeMB returns the free memory of the machine or of the control group, whichever is less, in 10^6 bytes,
// and which of them it is. It returns 0 if the free memory is unknown.
func freeMB() (mb float64, owner string) {
	data, _ := os.ReadFile(meminfo)
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			mb, owner = kib*1024/1e6, "the machine"
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
	limit, used := number("memory.max"), number("memory.current")
	if limit > 0 && used >= 0 && (mb == 0 || limit-used < mb) {
		return limit - used, "the container"
	}
	return mb, owner
}
