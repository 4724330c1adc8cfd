#include <atomic>
#include <cstdio>

#include "adaptor.h"

namespace bidiff::tensorrt {
namespace {

std::atomic<nvinfer1::ILogger*> given{nullptr};

}  // namespace

void set_logger(nvinfer1::ILogger* logger) noexcept { given = logger; }

void log(nvinfer1::ILogger::Severity severity, const std::string& sentence) noexcept {
  nvinfer1::ILogger* logger = given;
  if (!logger) logger = getLogger();
  if (logger) {
    logger->log(severity, sentence.c_str());
  } else {
    std::fprintf(stderr, "%s\n", sentence.c_str());
  }
}

}  // namespace bidiff::tensorrt
