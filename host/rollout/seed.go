package rollout

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"sort"

	"github.com/srpo-dev/srpo/plugins/env"
)

// seedDomain separates these hashes from all others, and names the version of the encoding.
const seedDomain = "srpo.seed.v1"

// Seed derives the seed for what parts name from the seed of a run. It is the first 8 bytes, big-endian, of
//
//	SHA-256("srpo.seed.v1" || u64(run) || enc(part 1) || enc(part 2) || ...)
//
// where u64 is 8 bytes, big-endian, and enc is
//
//	an integer >= 0, of any type    'u' || u64(value)
//	an integer < 0                  'i' || u64(two's complement)
//	a string                        's' || u64(length in bytes) || bytes
//	a bool                          'b' || one byte, 0 or 1
//	a float                         'f' || u64(IEEE 754 bits of the float64)
//
// so that no two lists of parts share an encoding, and int(3) equals uint8(3). Seed panics on a part of another
// type, which is a fault in the caller's source.
func Seed(run uint64, parts ...any) uint64 {
	buf := make([]byte, 0, 128)
	buf = append(buf, seedDomain...)
	buf = binary.BigEndian.AppendUint64(buf, run)
	for _, p := range parts {
		buf = appendPart(buf, p)
	}
	sum := sha256.Sum256(buf)
	return binary.BigEndian.Uint64(sum[:8])
}

func appendPart(buf []byte, part any) []byte {
	switch p := part.(type) {
	case string: // the two common types, without reflection
		buf = binary.BigEndian.AppendUint64(append(buf, 's'), uint64(len(p)))
		return append(buf, p...)
	case int:
		return appendInt(buf, int64(p))
	}
	switch v := reflect.ValueOf(part); {
	case part == nil:
	case v.CanInt():
		return appendInt(buf, v.Int())
	case v.CanUint():
		return binary.BigEndian.AppendUint64(append(buf, 'u'), v.Uint())
	case v.CanFloat():
		return binary.BigEndian.AppendUint64(append(buf, 'f'), math.Float64bits(v.Float()))
	case v.Kind() == reflect.String:
		return appendPart(buf, v.String())
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			return append(buf, 'b', 1)
		}
		return append(buf, 'b', 0)
	}
	panic(fmt.Sprintf("rollout.Seed: part of unsupported type %T", part))
}

func appendInt(buf []byte, v int64) []byte {
	tag := byte('u')
	if v < 0 {
		tag = 'i'
	}
	return binary.BigEndian.AppendUint64(append(buf, tag), uint64(v))
}

// Split divides a task's start states by seed into those to train on and those to test on, both ascending.
// round(fraction*n) of the n states are for training; with n >= 2 and 0 < fraction < 1, at least one and at
// most n-1. The order in which states are taken depends on the seed, the task's id and n, so another fraction
// only moves the boundary.
func Split(run uint64, task env.Task, fraction float64) (train, test []int) {
	n := task.StartStates
	keys := make([]uint64, n)
	states := make([]int, n)
	for i := range states {
		keys[i], states[i] = Seed(run, "split", task.ID, i), i
	}
	sort.Slice(states, func(a, b int) bool { return keys[states[a]] < keys[states[b]] })
	k := int(math.Round(math.Max(0, math.Min(1, fraction)) * float64(n)))
	if n >= 2 && fraction > 0 && fraction < 1 {
		k = max(1, min(n-1, k))
	}
	train, test = states[:k:k], states[k:]
	sort.Ints(train)
	sort.Ints(test)
	return train, test
}

// draw returns a number in [0, n) from a seed. The bias of the modulus is below n/2^64.
func draw(seed uint64, n int) int { return int(seed % uint64(n)) }

// unit returns a number in [0, 1) from a seed.
func unit(seed uint64) float64 { return float64(seed>>11) / (1 << 53) }
