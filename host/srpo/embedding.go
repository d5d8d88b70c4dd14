package srpo

import (
	"fmt"
	"math"
)

const (
	// smallestNormal is the smallest float32 of full precision. An encoder whose every number is smaller, that is
	// subnormal, carries as little information as one that returns zero.
	smallestNormal = 0x1p-126
	// largestUsable bounds |v|: squares of larger numbers leave float64's range.
	largestUsable = 1e100
)

// CheckEmbedding returns why a vector cannot be compared with others of the given dimension, in words that continue
// "the embedding ...", or "" if it can.
func CheckEmbedding[F float32 | float64](v []F, dimension int) string {
	if why := checkNumbers(v, dimension); why != "" {
		return why
	}
	zero, subnormal := true, true
	for _, x := range v {
		f := math.Abs(float64(x))
		zero, subnormal = zero && f == 0, subnormal && f < smallestNormal
	}
	switch {
	case zero:
		return "is all zero"
	case subnormal:
		return "is subnormal throughout, which is as good as zero"
	}
	return ""
}

// checkNumbers is CheckEmbedding for a point, which may be zero.
func checkNumbers[F float32 | float64](v []F, dimension int) string {
	if len(v) == 0 {
		return "is missing"
	}
	if len(v) != dimension {
		return fmt.Sprintf("has the wrong size: %d numbers, want %d", len(v), dimension)
	}
	for i, x := range v {
		f := math.Abs(float64(x))
		switch {
		case math.IsNaN(f):
			return fmt.Sprintf("is not a number at index %d", i)
		case math.IsInf(f, 0):
			return fmt.Sprintf("is infinite at index %d", i)
		case f > largestUsable:
			return fmt.Sprintf("is %g at index %d, above %g", x, i, largestUsable)
		}
	}
	return ""
}
