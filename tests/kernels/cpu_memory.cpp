// Calls the kernel with arrays that end where they should, for a sanitizer to watch; NaN at both ends of the strides
// shows what is read or left unwritten. Without torch there is no OpenMP to borrow, so that threads are the kernel's own.

#include "ema.cpp"

#include <algorithm>
#include <cstdio>
#include <random>

int main() {
  std::mt19937 random(1);
  auto draw = [&](int64_t least, int64_t most) { return least + (int64_t)(random() % (most - least + 1)); };
  for (int round = 0; round < 400; round++) {
    const int64_t batch = draw(1, 3), groups = draw(1, 9), c = draw(1, 12), h = draw(1, 19), w = draw(1, 35);
    const int64_t channels = groups * c, sizes[] = {batch, groups, c, h, w}, n = batch * channels * h * w;
    const int dtype = (int)draw(0, 2), threads = (int)draw(1, 5), instructions = (int)draw(0, best_instructions());
    const int64_t contiguous[] = {channels * h * w, h * w, w, 1}, last[] = {h * w * channels, 1, w * channels, channels};
    const int64_t* strides = draw(0, 1) ? contiguous : last;
    const size_t bytes = n * (dtype ? 2 : 4);
    std::vector<std::vector<float>> weights, gradients;
    std::vector<const float*> w_at;
    std::vector<float*> g_at;
    for (int64_t count : {c * c, c, c, c, 9 * c * c, c, channels}) {
      weights.emplace_back(count, 0.1f), gradients.emplace_back(count, NAN);
      weights.back().shrink_to_fit(), gradients.back().shrink_to_fit();
    }
    for (int i = 0; i < 7; i++) w_at.push_back(weights[i].data()), g_at.push_back(gradients[i].data());
    void *x = std::malloc(bytes), *dy = std::malloc(bytes), *y = std::malloc(bytes), *dx = std::malloc(bytes);
    for (void* filled : {x, dy}) std::memset(filled, 0x3C, bytes);  // small positive numbers in every type
    for (void* unwritten : {y, dx}) std::memset(unwritten, 0xFF, bytes);  // NaN in every type
    const bool keep = draw(0, 1);
    const float* gain = draw(0, 1) ? w_at[6] : nullptr;
    if (!gain) std::fill(gradients[6].begin(), gradients[6].end(), 0.f);
    std::vector<float> stats(batch * groups * 4 * c), map(keep ? batch * groups * h * w : 0);
    float* map_at = keep ? map.data() : nullptr;
    foveal_ema_forward(dtype, instructions, threads, sizes, x, strides, y, strides, w_at.data(), gain, 1e-5f, stats.data(),
                       map_at);
    foveal_ema_backward(dtype, instructions, threads, sizes, x, strides, dy, strides, dx, strides, w_at.data(), gain,
                        1e-5f, stats.data(), map_at, g_at.data());
    for (void* written : {y, dx})
      for (int64_t i = 0; i < n; i++)
        if (dtype ? ((uint16_t*)written)[i] == 0xFFFF : ((uint32_t*)written)[i] == 0xFFFFFFFF) return 1;
    for (const auto& gradient : gradients)
      for (float v : gradient)
        if (std::isnan(v)) return 2;
    for (void* pointer : {x, dy, y, dx}) std::free(pointer);
  }
  std::puts("400 rounds");
}
