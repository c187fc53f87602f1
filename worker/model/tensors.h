/* Model files in safetensors' format (https://huggingface.co/docs/safetensors): 8 bytes header
 * length, JSON, data. Metadata carries what predict needs (kind, dims, class names, snapshot,
 * accuracies). */
#pragma once

#include <jansson.h>

#include "proto/layout.h"

/* weights: flat, layout order. metadata: string -> string object, borrowed. Atomic. */
int tensors_write(const char *path, const struct tensor_spec *tensors, size_t count,
                  const float *weights, json_t *metadata, struct error *reterr);
/* *ret_tensors mem_free, *ret_weights mem_free, *ret_metadata json_decref. Every length, offset and
 * name is checked (ERR_FORMAT). Order as in the file's data. init and decay are not stored. */
int tensors_read(const char *path, struct tensor_spec **ret_tensors, size_t *ret_count,
                 float **ret_weights, json_t **ret_metadata, struct error *reterr);
